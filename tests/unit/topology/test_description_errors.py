"""Every way to get a description wrong: refused, at the line and column where it is wrong, with what was meant."""

from pathlib import Path

import pytest

from topology.load import DescriptionError, load_description, parse_description

GOOD = """\
testbed: trial
delivery: {answer: lazy}
regions:
  north:
    sites:
      alpha: {node: n1, saes: [sae-1]}
      beta: {node: n2, saes: [sae-2]}
    qkd_links:
      - {between: [n1, n2], fibre_km: 12, secret_key_rate: 2.5 kb/s}
  south:
    sites:
      gamma: {node: n3, saes: [sae-3]}
wan_links:
  - {between: [n2, n3], delay: 6 ms, jitter: 0.2 ms, loss: 0 %, rate: 100 Mbit/s}
policy: {trust: all, sae_pairs: all}
ports: {n1: 18443}
subnet: 10.88.0.0/16
"""


def findings(text: str) -> list[str]:
    with pytest.raises(DescriptionError) as caught:
        parse_description(text, "d.yaml")
    return [str(finding) for finding in caught.value.findings]


def test_the_description_that_the_errors_start_from_is_good() -> None:
    assert parse_description(GOOD, "d.yaml").testbed == "trial"


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ("delivery:", "delivry:", '2:1: unknown key "delivry" (where: delivry) - did you mean "delivery"?'),
        ("answer: lazy", "anser: lazy", '2:12: unknown key "anser" (where: delivery.anser) - did you mean "answer"?'),
        (
            "answer: lazy",
            "answer: lasy",
            "2:20: \"lasy\" is not one of 'lazy' or 'eager' (where: delivery.answer) - did you mean \"lazy\"?",
        ),
        (
            "answer: lazy",
            "arrival_wait_s: -1",
            '2:28: "-1" is wrong here: it should be greater than or equal to 0 (where: delivery.arrival_wait_s)',
        ),
        ("loss:", "los:", '14:54: unknown key "los" (where: wan_links[0].los) - did you mean "loss"?'),
        (
            "fibre_km: 12",
            "fiber_km: 12",
            '9:29: unknown key "fiber_km" (where: regions.north.qkd_links[0].fiber_km) - did you mean "fibre_km"?',
        ),
        ("sites:\n      gamma", "site:\n      gamma", '11:5: unknown key "site" (where: regions.south.site) - did you'),
        ("testbed: trial", "testbed: Trial!", '1:10: "Trial!" cannot name a testbed: '),
        ("testbed: trial", "testbed: 7", '1:10: expected text, not "7" (where: testbed)'),
        ("testbed: trial\n", "", '1:1: "testbed" is missing'),
        (
            "fibre_km: 12, ",
            "",
            '9:9: "fibre_km" is missing (where: regions.north.qkd_links[0])',
        ),
        (
            "[n1, n2]",
            "[n1, n22]",
            '9:24: there is no node "n22" (where: regions.north.qkd_links[0].between[1]) - did you mean "n2"?',
        ),
        ("[n1, n2]", "[n1]", "9:19: expected exactly two names, like [kmstn1, kmstn2] (where: regions.north.qkd_lin"),
        ("[n1, n2]", "[n1, n1]", '9:19: "n1" is linked to itself (where: regions.north.qkd_links[0].between)'),
        ("[n1, n2]", "[n1, n3]", '9:24: "n3" is in region "south", and QKD links stay inside one; use wan_links '),
        ("[n2, n3]", "[n2, n1]", '14:15: both nodes are in region "north"; use its qkd_links (where: wan_links[0].b'),
        ("[n2, n3]", "[n3, n3]", '14:15: "n3" is linked to itself (where: wan_links[0].between)'),
        ("[n2, n3]", "[m2, n3]", '14:16: there is no node "m2" (where: wan_links[0].between[0]) - did you mean "n2"?'),
        ("saes: [sae-3]", "saes: [sae-1]", '12:32: SAE "sae-1" is a duplicate: a SAE at site "alpha" has this ID alr'),
        ("saes: [sae-3]", "saes: [n1]", '12:32: SAE "n1" is a duplicate: a node at site "alpha" has this ID already '),
        ("gamma:", "alpha:", '12:7: region "north" has a site "alpha" already (where: regions.south.sites.alpha)'),
        ("[sae-3]", '["sae 3"]', "12:32: \"sae 3\" cannot be an SAE ID: the character ' ' may not stand in a URI; all"),
        ("[sae-3]", '["sæ"]', "12:32: \"sæ\" cannot be an SAE ID: the character 'æ' may not stand in a URI; allowed"),
        ("[sae-3]", '[""]', '12:32: "" cannot be an SAE ID: it has 0 characters; allowed are 1 to 64 characters'),
        ("[sae-3]", f"[{'s' * 65}]", f'12:32: "{"s" * 65}" cannot be an SAE ID: it has 65 characters; allowed'),
        ("12, secret", "-12, secret", "9:39: a length of fibre cannot be negative: -12 (where: regions.north.qkd_link"),
        ("2.5 kb/s", "2.5 kB/s", '9:60: "kB/s" is not a unit of a secret key rate; known: b/s, bit/s, bps, kb/s, '),
        ("delay: 6 ms", "delay: 6", '14:32: a delay needs a unit: 6 of what? write it like "12 ms" (where: wan_li'),
        ("loss: 0 %", "loss: 120 %", "14:60: 120 % is too much for a loss: at most 100 % (where: wan_links[0].loss)"),
        ("fibre_km: 12", "profile: genric, fibre_km: 12", '9:38: there is no device profile "genric"; known: gener'),
        ("n1: 18443", "n1: 70000", "16:13: 70000 is not a port: 1 to 65535 (where: ports.n1)"),
        ("n1: 18443", "n1: 0", "16:13: 0 is not a port: 1 to 65535 (where: ports.n1)"),
        ("n1: 18443", "n1: a", '16:13: expected a whole number, not "a" (where: ports.n1)'),
        ("n1: 18443", "n1: 80, n2: 80", '16:21: port 80 is given to "n1" already (where: ports.n2)'),
        ("n1: 18443", "n11: 80", '16:9: there is no node "n11" (where: ports.n11) - did you mean "n1"?'),
        ("10.88.0.0/16", "10.88.0.0/24", "17:9: 10.88.0.0/24 is too small for 3 sites and 1 WAN links: at least a /21"),
        ("10.88.0.0/16", "8.8.0.0/16", "17:9: 8.8.0.0/16 is not private: take one inside 10.0.0.0/8, 172.16.0.0/12 or"),
        ("10.88.0.0/16", "127.0.0.0/8", "17:9: 127.0.0.0/8 is not private: take one inside 10.0.0.0/8, 172.16.0.0/12"),
        ("10.88.0.0/16", "10.88.0.1/16", '17:9: "10.88.0.1/16" is not an IPv4 subnet like 10.88.0.0/16 (10.88.0.1/16'),
        ("10.88.0.0/16", "banana", '17:9: "banana" is not an IPv4 subnet like 10.88.0.0/16 '),
        ("trust: all", "trust: [[nort, south]]", '15:19: there is no region "nort" (where: policy.trust[0][0]) - did'),
        ("trust: all", "trust: none", "15:17: \"none\" is not one of 'all' (where: policy.trust)"),
        ("trust: all", "trust: [[north]]", "15:18: expected exactly two names, like [kmstn1, kmstn2] (where: policy"),
        ("trust: all", "trust: [[north, north], [north, south]]", '15:18: "north" is paired with itself (where: poli'),
        ("sae_pairs: all", "sae_pairs: [[sae-1, sae-9]]", '15:42: there is no SAE "sae-9" (where: policy.sae_pair'),
        (
            "trust: all",
            "trust: [[north, south], [south, north]]",
            "15:34: the pair of regions between south and north is there twice (where: policy.trust[1])",
        ),
        (
            "trust: all",
            "trust: []",
            '14:15: regions "north" and "south" do not trust each other by policy (where: wan_links[0].between)',
        ),
    ],
)
def test_one_fault_is_found_where_it_is(right: str, wrong: str, told: str) -> None:
    assert GOOD.count(right) >= 1
    found = findings(GOOD.replace(right, wrong, 1))
    assert len(found) == 1, found
    assert found[0].startswith(f"d.yaml:{told}")


def test_a_node_given_twice_is_told_beside_the_link_that_now_leads_nowhere() -> None:
    found = findings(GOOD.replace("node: n3", "node: n1"))
    told = 'node "n1" is a duplicate: a node at site "alpha" has this ID already'
    assert found[0] == f"d.yaml:12:21: {told} (where: regions.south.sites.gamma.node)"
    assert found[1].startswith('d.yaml:14:20: there is no node "n3" (where: wan_links[0].between[1])')
    assert len(found) == 2


@pytest.mark.parametrize("name", ["access", "load", "localhost", "router-north", "n1-to-n2"])
def test_a_node_that_takes_a_name_of_the_testbed(name: str) -> None:
    told = f'12:21: "{name}" cannot name a node: the testbed gives such names to its own containers'
    assert findings(GOOD.replace("n3", name)) == [f"d.yaml:{told} (where: regions.south.sites.gamma.node)"]


@pytest.mark.parametrize("name", ["N3", "3n", "n_3", "n-", "n" * 19])
def test_a_node_whose_name_is_no_host_name(name: str) -> None:
    (found,) = findings(GOOD.replace("n3", name))
    assert found.startswith(f'd.yaml:12:21: "{name}" cannot name a node: 1 to 18 of a-z, 0-9 and "-", first a letter')


@pytest.mark.parametrize("nothing", ["", " {}", "\n    sites: {}", "\n    sites:"])
def test_a_region_without_nodes(nothing: str) -> None:
    text = GOOD.replace("\nwan_links:", f"\n  empty:{nothing}\nwan_links:")
    assert findings(text) == ['d.yaml:13:3: region "empty" has no sites, so no node (where: regions.empty)']


def test_a_link_given_twice_even_the_other_way_round() -> None:
    again = "      - {between: [n2, n1], fibre_km: 3}\n"
    told = "10:19: the QKD link between n2 and n1 is there twice (where: regions.north.qkd_links[1].between)"
    text = GOOD.replace("  south:\n", f"{again}  south:\n")
    assert findings(text) == [f"d.yaml:{told}"]


def test_two_wan_links_that_a_router_cannot_tell_apart() -> None:
    text = GOOD.replace("policy:", "  - {between: [n1, n3], delay: 9 ms}\npolicy:")
    told = 'region "north" has a WAN link to "n3" already: routers cannot tell two such links apart'
    assert findings(text) == [f"d.yaml:15:15: {told} (where: wan_links[1].between)"]


def test_an_unreachable_node_is_told_where_it_is() -> None:
    start = GOOD.index("wan_links:")
    text = GOOD[:start] + GOOD[GOOD.index("policy:") :]
    told = 'SAEs "sae-1" and "sae-3" may exchange keys by policy, but no links lead from n1 to n3'
    assert findings(text) == [f"d.yaml:12:21: {told} (where: regions.south.sites.gamma.node)"]


def test_a_pair_of_the_policy_that_no_link_joins_is_told_in_the_policy() -> None:
    start = GOOD.index("wan_links:")
    text = (GOOD[:start] + GOOD[GOOD.index("policy:") :]).replace("sae_pairs: all", "sae_pairs: [[sae-2, sae-3]]")
    told = 'SAEs "sae-2" and "sae-3" may exchange keys by policy, but no links lead from n2 to n3'
    assert findings(text) == [f"d.yaml:13:34: {told} (where: policy.sae_pairs[0])"]


def test_a_pair_of_regions_that_do_not_trust_each_other_but_are_reachable() -> None:
    third = "  west:\n    sites:\n      delta: {node: n4, saes: [sae-4]}\n"
    text = GOOD.replace("wan_links:\n", f"{third}wan_links:\n  - {{between: [n3, n4], delay: 1 ms}}\n")
    text = text.replace("trust: all", "trust: [[north, south], [south, west]]")
    told = (
        'SAEs "sae-1" and "sae-4" may exchange keys by policy, but regions "north" and "west" do not trust each other'
    )
    assert findings(text) == [f"d.yaml:15:21: {told} (where: regions.west.sites.delta.node)"]


def test_pairs_that_may_not_exchange_need_no_way_to_each_other() -> None:
    start = GOOD.index("wan_links:")
    text = (GOOD[:start] + GOOD[GOOD.index("policy:") :]).replace("sae_pairs: all", "sae_pairs: [[sae-1, sae-2]]")
    assert parse_description(text, "d.yaml").policy.sae_pairs == [("sae-1", "sae-2")]


def test_all_faults_are_told_at_once_in_the_order_of_the_file() -> None:
    text = GOOD.replace("answer: lazy", "anser: lazy").replace("[n1, n2]", "[n1, n22]").replace("6 ms", "6 msec")
    text = text.replace("n1: 18443", "n11: 99999").replace("[sae-3]", "[sae-1]")
    assert [told.split(": ")[0] for told in findings(text)] == [
        "d.yaml:2:12",
        "d.yaml:9:24",
        "d.yaml:12:32",
        "d.yaml:14:32",
        "d.yaml:16:9",
        "d.yaml:16:14",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "1:1: the file is empty"),
        ("# nothing\n", "1:1: the file is empty"),
        ("- a\n", "1:1: expected keys with values at the top, like testbed:"),
        ("just text\n", "1:1: expected keys with values at the top, like testbed:"),
        ("testbed: a\nregions:\n\tnorth: {}\n", "3:1: a tab where YAML wants spaces"),
        ("testbed: [a\n", "2:1: not valid YAML: expected ',' or ']', but got '<stream end>' while parsing a flow seq"),
        ("testbed: a: b\n", "1:11: not valid YAML: mapping values are not allowed here"),
        ("testbed: *who\n", "1:10: not valid YAML: found undefined alias 'who'"),
        ("regions: &r\n  a: *r\n", "1:10: too deep, too long, or an alias that contains itself"),
        ("testbed: a\n---\ntestbed: b\n", "2:1: a second YAML document begins here; a description is one document"),
        ("testbed: \x01\n", "1:10: a control character that YAML does not allow"),
        ("? [a]\n: b\n", "1:3: a key must be a plain word"),
    ],
)
def test_text_that_is_no_description(text: str, told: str) -> None:
    (found,) = findings(text)
    assert found.startswith(f"d.yaml:{told}")


def test_a_key_given_twice_beside_other_faults() -> None:
    text = GOOD.replace("ports:", "testbed: other\nports:").replace("6 ms", "6")
    found = findings(text)
    assert found[1] == 'd.yaml:16:1: the key "testbed" is there twice (where: testbed)'
    assert found[0].startswith("d.yaml:14:32: a delay needs a unit")


def test_an_alias_bomb_is_refused_soon() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    (found,) = findings("\n".join(lines))
    assert "too deep, too long" in found


def test_nesting_without_end_is_refused() -> None:
    (found,) = findings("testbed: " + "[" * 5000 + "]" * 5000)
    assert found.startswith("d.yaml:1:")


def told_about(path: Path) -> str:
    with pytest.raises(DescriptionError) as caught:
        load_description(path)
    return str(caught.value).removeprefix(f"{path}:")


def test_a_missing_file_names_the_one_that_was_meant(tmp_path: Path) -> None:
    (tmp_path / "two-nodes.yaml").write_text(GOOD)
    told = told_about(tmp_path / "two-node.yaml")
    assert told == '1:1: there is no such file - did you mean "two-nodes.yaml"?'


def test_a_file_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert told_about(tmp_path / "nowhere" / "d.yaml") == "1:1: there is no such file"


def test_a_folder_instead_of_a_file(tmp_path: Path) -> None:
    assert told_about(tmp_path) == "1:1: this is a folder, not a file"


def test_bytes_that_are_not_utf8_are_found_by_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "d.yaml"
    path.write_bytes(b"testbed: a\nregions: \xe9\n")
    assert told_about(path) == "2:10: byte 0xe9 is not UTF-8 text"


def test_a_file_too_large_to_be_a_description(tmp_path: Path) -> None:
    path = tmp_path / "d.yaml"
    path.write_bytes(b"#" * 1_000_001)
    assert told_about(path) == "1:1: larger than 1000000 bytes"


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "d.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load_description(path).testbed == "trial"
