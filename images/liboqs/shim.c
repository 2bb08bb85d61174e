/* liboqs.so as liboqs-python expects it: the real library, plus the one function that liboqs-python looks up at import
 * and liboqs 0.13 lacks. Only signatures ever call it. */
#include <stdbool.h>
#include <stddef.h>

#include <oqs/oqs.h>

bool OQS_SIG_supports_ctx_str(const char *method_name) {
    OQS_SIG *sig = OQS_SIG_new(method_name);
    if (sig == NULL) {
        return false;
    }
    bool supported = sig->sig_with_ctx_support;
    OQS_SIG_free(sig);
    return supported;
}
