/*
 * A PKCS#11 module between a test and a real token: it passes every call on, writes down those that the tests count, and misbehaves as
 * the file SEALWIRE_TOKEN_FAULT says. Only what the tests need of the interface is declared here.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long ul;
typedef struct { unsigned char major, minor; void *call[68]; } List;
typedef struct { ul type; void *value; ul len; } Attribute;
typedef struct { ul mechanism; void *parameter; ul len; } Mechanism;
typedef struct { ul kdf, shared_len; void *shared; ul public_len; void *public; } Agreement;
typedef struct { char names[96]; ul flags, max_sessions, sessions; } TokenInfo;

/* Places in the list of functions. */
enum { GET_TOKEN_INFO = 6, OPEN_SESSION = 12, CLOSE_SESSION, CLOSE_ALL, LOGIN = 18, GET_VALUE = 24, FIND_INIT = 26, FIND, GENERATE_PAIR = 59, DERIVE = 62 };
/* Return values and attributes. */
enum { DEVICE_REMOVED = 0x32, MECHANISM_INVALID = 0x70, PARAM_INVALID = 0x71, CURVE_UNSUPPORTED = 0x140, PIN_LOCKED = 0xa4, NOT_PRESENT = 0xe0, SESSION_COUNT = 0xb1 };
enum { CKA_VALUE = 0x11, CKA_SENSITIVE = 0x103, CKA_EC_PARAMS = 0x180, CKA_EXTRACTABLE = 0x162, EDWARDS = 0x1055, MONTGOMERY = 0x1056 };

static List real, ours;
static ul slot_of_last;

static int is(const char *fault) {
    char said[64] = "";
    FILE *file = fopen(getenv("SEALWIRE_TOKEN_FAULT"), "r");
    if (!file) return 0;
    if (!fgets(said, sizeof said, file)) said[0] = 0;
    fclose(file);
    return !strcmp(said, fault);
}

static void count(char what) {
    FILE *file = fopen(getenv("SEALWIRE_TOKEN_COUNT"), "a");
    if (!file) abort();
    fputc(what, file);
    fclose(file);
}

#define REAL(at, ...) ((ul (*)())real.call[at])(__VA_ARGS__)

static ul token_info(ul slot, TokenInfo *info) {
    if (is("removed")) return NOT_PRESENT;
    ul rv = REAL(GET_TOKEN_INFO, slot, info);
    if (is("last try")) info->flags |= 0x20000;
    if (is("other token")) info->names[80] ^= 1;
    if (is("two sessions")) info->max_sessions = 2;
    return rv;
}

static ul open_session(ul slot, ul flags, void *application, void *notify, ul *session) {
    count('o');
    if (is("removed")) return DEVICE_REMOVED;
    if (is("no more sessions")) return SESSION_COUNT;
    slot_of_last = slot;
    return REAL(OPEN_SESSION, slot, flags, application, notify, session);
}

static ul close_session(ul session) {
    count('c');
    return REAL(CLOSE_SESSION, session);
}

static ul login(ul session, ul user, char *pin, ul len) {
    count('l');
    if (is("pin locked")) return PIN_LOCKED;
    return REAL(LOGIN, session, user, pin, len);
}

static ul find_init(ul session, Attribute *with, ul n) {
    if (is("removed")) return DEVICE_REMOVED;
    return REAL(FIND_INIT, session, with, n);
}

static ul find(ul session, ul *objects, ul most, ul *n) {
    static ul one;
    ul rv = REAL(FIND, session, objects, most, n);
    if (!is("endless keys")) return rv;
    count('f');
    if (*n) one = objects[0];
    for (*n = 0; *n < most; ++*n) objects[*n] = one;
    return 0;
}

static ul get_value(ul session, ul object, Attribute *of, ul n) {
    if (is("removed")) return DEVICE_REMOVED;
    ul rv = REAL(GET_VALUE, session, object, of, n);
    if (!rv && n == 1 && of->type == CKA_VALUE && of->value && is("zero")) memset(of->value, 0, of->len);
    if (!rv && n == 1 && of->type == CKA_VALUE && of->value && is("short")) of->len = 31;
    if (!rv && n == 1 && of->type == CKA_VALUE && of->value && is("wrong")) ((char *)of->value)[5] ^= 1;
    return rv;
}

static ul generate_pair(ul session, Mechanism *by, Attribute *public, ul m, Attribute *private, ul n, ul *k, ul *l) {
    static unsigned char yes = 1, no = 0;
    Mechanism edwards = {EDWARDS, 0, 0};
    if (is("no x25519")) return MECHANISM_INVALID;
    if (is("montgomery by identifier") || is("montgomery by name")) {
        unsigned char wanted = is("montgomery by name") ? 0x13 : 0x06;
        if (by->mechanism != MONTGOMERY) return MECHANISM_INVALID;
        for (ul i = 0; i < m; i++) {
            if (public[i].type == CKA_EC_PARAMS && *(unsigned char *)public[i].value != wanted) return CURVE_UNSUPPORTED;
        }
        by = &edwards;
    }
    for (ul i = 0; i < n && is("extractable"); i++) {
        if (private[i].type == CKA_EXTRACTABLE) private[i].value = &yes;
    }
    for (ul i = 0; i < n && is("not sensitive"); i++) {
        if (private[i].type == CKA_SENSITIVE) private[i].value = &no;
    }
    return REAL(GENERATE_PAIR, session, by, public, m, private, n, k, l);
}

static int is_canonical(const unsigned char *point) {
    int i = 30;
    while (i > 0 && point[i] == 0xff) i--;
    return point[31] < 0x7f || (point[31] == 0x7f && (i > 0 || point[0] < 0xed));
}

static ul derive(ul session, Mechanism *by, ul key, Attribute *with, ul n, ul *derived) {
    Agreement agreement = *(Agreement *)by->parameter;
    Mechanism passed = {by->mechanism, &agreement, by->len};
    unsigned char wrapped[34] = {4, 32};
    count('d');
    if (!is_canonical((unsigned char *)agreement.public + agreement.public_len - 32)) count('n');
    if (is("removed")) return DEVICE_REMOVED;
    if (is("slow")) usleep(20000);
    if (is("stuck")) sleep(12);
    if (is("lost") && !unlink(getenv("SEALWIRE_TOKEN_FAULT"))) {
        /* Once, by whichever thread comes first: a token that was reset, or another part of the process that closed everything. */
        REAL(CLOSE_ALL, slot_of_last);
    }
    if (is("wrapped points") && agreement.public_len != 34) return PARAM_INVALID;
    if (is("either form") && agreement.public_len == 32 && !memcmp(agreement.public, "\4\x1e", 2)) return PARAM_INVALID;
    if (is("raw points") && agreement.public_len != 32) return PARAM_INVALID;
    if (is("raw points")) {
        memcpy(wrapped + 2, agreement.public, 32);
        agreement.public = wrapped;
        agreement.public_len = 34;
    }
    ul rv = REAL(DERIVE, session, &passed, key, with, n, derived);
    count(rv ? 'x' : 'y');
    return rv;
}

ul C_GetFunctionList(List **list) {
    void *module = dlopen(getenv("SEALWIRE_TOKEN_MODULE"), RTLD_NOW);
    ul (*theirs)(List **) = module ? (ul (*)(List **))dlsym(module, "C_GetFunctionList") : 0;
    List *found;
    if (!theirs || theirs(&found)) return 5;
    real = ours = *found;
    ours.call[GET_TOKEN_INFO] = token_info;
    ours.call[OPEN_SESSION] = open_session;
    ours.call[CLOSE_SESSION] = close_session;
    ours.call[LOGIN] = login;
    ours.call[FIND_INIT] = find_init;
    ours.call[FIND] = find;
    ours.call[GET_VALUE] = get_value;
    ours.call[GENERATE_PAIR] = generate_pair;
    ours.call[DERIVE] = derive;
    *list = &ours;
    return 0;
}
