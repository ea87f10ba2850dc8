/*
 * A PKCS#11 module for tests: forwards every call to another module (SoftHSM), and can be told to behave like the
 * modules of other vendors, or to fail like hardware. What it is told stands in a small file that is read again
 * whenever it changes, so that a process that uses the module can be made faulty while it runs. See shim/__init__.py.
 *
 * Environment:
 *   KEYSTEAD_SHIM_MODULE   path of the module to forward to
 *   KEYSTEAD_SHIM_CONTROL  path of the control file (may be missing: then nothing is changed)
 *   KEYSTEAD_SHIM_LOG      path of a file to which logins, session openings and the like are appended, a line each
 *
 * Only the few declarations of Cryptoki 2.40 that are needed, so that no header package is.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

typedef unsigned long ulong_t;
typedef unsigned char byte_t;

#define OK 0x00UL
#define GENERAL_ERROR 0x05UL
#define MECHANISM_INVALID 0x70UL
#define PARAM_INVALID 0x71UL
#define SESSION_COUNT 0xB1UL
#define TOKEN_NOT_PRESENT 0xE0UL
#define BUFFER_TOO_SMALL 0x150UL
#define AES_GCM 0x1087UL
#define KEY_WRAP_PAD 0x210AUL
#define FINAL_TRY 0x20000UL
#define NONE (~0UL)
#define IV_BYTES 12

typedef struct { ulong_t mechanism; void *parameter; ulong_t length; } mechanism_t;
typedef struct { byte_t *iv; ulong_t iv_len, iv_bits; byte_t *aad; ulong_t aad_len, tag_bits; } gcm_t;
typedef struct { ulong_t min_size, max_size, flags; } mechanism_info_t;
typedef struct { byte_t major, minor; } version_t;
typedef struct {
    char label[32], manufacturer[32], model[16], serial[16];
    ulong_t flags, max_sessions, sessions, max_rw, rw, max_pin, min_pin, memory[4];
    version_t hardware, firmware;
    char time[16];
} token_info_t;

/* Places in CK_FUNCTION_LIST, in the order of the standard. */
enum {
    F_Initialize = 0, F_Finalize, F_GetInfo, F_GetFunctionList, F_GetSlotList, F_GetSlotInfo, F_GetTokenInfo,
    F_GetMechanismList, F_GetMechanismInfo, F_InitToken, F_InitPIN, F_SetPIN, F_OpenSession, F_CloseSession,
    F_CloseAllSessions, F_GetSessionInfo, F_GetOperationState, F_SetOperationState, F_Login, F_Logout, F_CreateObject,
    F_CopyObject, F_DestroyObject, F_GetObjectSize, F_GetAttributeValue, F_SetAttributeValue, F_FindObjectsInit,
    F_FindObjects, F_FindObjectsFinal, F_EncryptInit, F_Encrypt, F_EncryptUpdate, F_EncryptFinal, F_DecryptInit,
    F_Decrypt, F_GenerateKey = 58, F_GenerateKeyPair, F_WrapKey, F_UnwrapKey, F_DeriveKey, F_SeedRandom,
    F_GenerateRandom, F_COUNT = 68
};
typedef struct { version_t version; void *call[F_COUNT]; } list_t;

static list_t *real;
static list_t ours;

/* --- what it is told ---------------------------------------------------------------------------------------------- */

enum iv_mode { IV_OURS, IV_PARAMS, IV_APPENDED };

typedef struct {
    long slow_us;          /* each call that returns data takes so much longer */
    int hang;              /* ... does not return while this holds */
    int crash;             /* ... ends the process */
    int corrupt;           /* C_Encrypt: one bit of the ciphertext is wrong */
    ulong_t error;         /* ... returns this instead */
    long error_times;      /* so often; negative: for ever */
    char error_at[40];     /* only this function; empty: all that return data */
    int lose;              /* once: all sessions are gone */
    int gone;              /* the token is not there */
    enum iv_mode iv;
    ulong_t kwp;           /* number of AES key wrap with padding; 0: the standard's */
    ulong_t map_from[8], map_to[8];
    int maps;
    ulong_t missing[16];
    int missings;
    int final_try;
    long sessions;         /* most sessions; 0: no limit */
    char manufacturer[33], model[17];
    int firmware[2];       /* negative: as it is */
    int fm;                /* Luna's HSM policy 50 (Functionality Modules): 0, 1; negative: not told */
} orders_t;

static const orders_t nothing = {.firmware = {-1, -1}, .fm = -1};
static orders_t orders;
static struct stat seen;
static int have_seen;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* Calls into the real module are readers, the loss of its sessions is a writer: SoftHSM frees what others use. */
static pthread_rwlock_t inside = PTHREAD_RWLOCK_INITIALIZER;
static long open_sessions;

static void note(const char *what, ulong_t code)
{
    const char *path = getenv("KEYSTEAD_SHIM_LOG");
    char line[80];
    int fd, size;
    if (path == NULL || (fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600)) < 0)
        return;
    size = snprintf(line, sizeof line, "%s 0x%lx %ld\n", what, code, (long)getpid());
    if (write(fd, line, (size_t)size) != size)
        abort();
    close(fd);
}

static void text(char *to, size_t size, const char *from)
{
    snprintf(to, size, "%s", from);
}

static void read_orders(FILE *file)
{
    char line[200], rest[160];
    orders = nothing;
    while (fgets(line, sizeof line, file) != NULL) {
        char name[40] = "";
        rest[0] = 0;
        if (sscanf(line, "%39s %159[^\n]", name, rest) < 1)
            continue;
        if (!strcmp(name, "slow_us")) orders.slow_us = strtol(rest, NULL, 0);
        else if (!strcmp(name, "hang")) orders.hang = 1;
        else if (!strcmp(name, "crash")) orders.crash = 1;
        else if (!strcmp(name, "corrupt")) orders.corrupt = 1;
        else if (!strcmp(name, "lose")) orders.lose = 1;
        else if (!strcmp(name, "gone")) orders.gone = 1;
        else if (!strcmp(name, "final_try")) orders.final_try = 1;
        else if (!strcmp(name, "sessions")) orders.sessions = strtol(rest, NULL, 0);
        else if (!strcmp(name, "kwp")) orders.kwp = strtoul(rest, NULL, 0);
        else if (!strcmp(name, "manufacturer")) text(orders.manufacturer, sizeof orders.manufacturer, rest);
        else if (!strcmp(name, "model")) text(orders.model, sizeof orders.model, rest);
        else if (!strcmp(name, "firmware")) sscanf(rest, "%d.%d", &orders.firmware[0], &orders.firmware[1]);
        else if (!strcmp(name, "fm")) orders.fm = atoi(rest);
        else if (!strcmp(name, "iv"))
            orders.iv = !strcmp(rest, "params") ? IV_PARAMS : !strcmp(rest, "appended") ? IV_APPENDED : IV_OURS;
        else if (!strcmp(name, "missing") && orders.missings < 16)
            orders.missing[orders.missings++] = strtoul(rest, NULL, 0);
        else if (!strcmp(name, "map") && orders.maps < 8) {
            if (sscanf(rest, "%li %li", (long *)&orders.map_from[orders.maps], (long *)&orders.map_to[orders.maps]) == 2)
                orders.maps++;
        } else if (!strcmp(name, "error")) {
            orders.error_times = -1;
            sscanf(rest, "%li %ld %39s", (long *)&orders.error, &orders.error_times, orders.error_at);
        } else {
            fprintf(stderr, "shim: unknown order: %s\n", name);
            abort(); /* a test that misspells its fault must not pass */
        }
    }
}

static void lose_sessions(void)
{
    ulong_t (*slots)(byte_t, ulong_t *, ulong_t *) = real->call[F_GetSlotList];
    ulong_t (*close_all)(ulong_t) = real->call[F_CloseAllSessions];
    ulong_t found[32], count = 32, at;
    pthread_rwlock_wrlock(&inside);
    if (slots(1, found, &count) == OK)
        for (at = 0; at < count; at++)
            close_all(found[at]);
    open_sessions = 0;
    pthread_rwlock_unlock(&inside);
}

/* Return the orders of this moment. */
static orders_t now(void)
{
    const char *path = getenv("KEYSTEAD_SHIM_CONTROL");
    struct stat is;
    orders_t copy;
    int lose = 0;
    pthread_mutex_lock(&lock);
    if (path == NULL || stat(path, &is) != 0) {
        orders = nothing;
        have_seen = 0;
    } else if (!have_seen || is.st_ino != seen.st_ino || is.st_size != seen.st_size
               || is.st_mtim.tv_sec != seen.st_mtim.tv_sec || is.st_mtim.tv_nsec != seen.st_mtim.tv_nsec) {
        FILE *file = fopen(path, "re");
        if (file != NULL) {
            read_orders(file);
            fclose(file);
            seen = is;
            have_seen = 1;
            lose = orders.lose;
            orders.lose = 0;
        }
    }
    copy = orders;
    pthread_mutex_unlock(&lock);
    if (lose)
        lose_sessions();
    return copy;
}

static void rest_us(long us)
{
    struct timespec left = {us / 1000000, (us % 1000000) * 1000};
    while (nanosleep(&left, &left) != 0 && errno == EINTR)
        ;
}

static ulong_t mapped(const orders_t *o, ulong_t code)
{
    for (int at = 0; at < o->maps; at++)
        if (o->map_from[at] == code)
            return o->map_to[at];
    return code;
}

static int is_data(const char *function)
{
    return !strcmp(function, "C_Encrypt") || !strcmp(function, "C_Decrypt") || !strcmp(function, "C_GenerateRandom");
}

static int take_error(const char *function, ulong_t *code)
{
    int taken = 0;
    pthread_mutex_lock(&lock);
    if (orders.error && orders.error_times != 0
        && (orders.error_at[0] == 0 ? is_data(function) : !strcmp(orders.error_at, function))) {
        if (orders.error_times > 0)
            orders.error_times--;
        *code = orders.error;
        taken = 1;
    }
    pthread_mutex_unlock(&lock);
    return taken;
}

/* What befalls a call that returns data, beside its own result. */
static ulong_t befall(const char *function, ulong_t code, orders_t o)
{
    if (o.crash)
        raise(SIGSEGV); /* as a faulty module ends its process */
    while (o.hang) {
        rest_us(5000);
        o = now();
    }
    if (o.slow_us)
        rest_us(o.slow_us);
    take_error(function, &code);
    return mapped(&o, code);
}

static int is_missing(const orders_t *o, ulong_t mechanism)
{
    for (int at = 0; at < o->missings; at++)
        if (o->missing[at] == mechanism)
            return 1;
    return o->kwp != 0 && mechanism == KEY_WRAP_PAD;
}

/* Call a function of the real module. */
#define REAL(function, types, arguments)                                                                              \
    ({                                                                                                                \
        ulong_t(*call_) types = (ulong_t(*) types)real->call[F_##function];                                           \
        pthread_rwlock_rdlock(&inside);                                                                               \
        ulong_t code_ = call_ arguments;                                                                              \
        pthread_rwlock_unlock(&inside);                                                                               \
        code_;                                                                                                        \
    })

/* A function that fails while the token is gone, and is else passed on. */
#define PASS(function, types, signature, arguments)                                                                   \
    static ulong_t C_##function signature                                                                             \
    {                                                                                                                 \
        orders_t o = now();                                                                                           \
        ulong_t code;                                                                                                 \
        if (o.gone)                                                                                                   \
            return TOKEN_NOT_PRESENT;                                                                                 \
        code = REAL(function, types, arguments);                                                                      \
        take_error("C_" #function, &code);                                                                            \
        return mapped(&o, code);                                                                                      \
    }

/* --- module, token, sessions ---------------------------------------------------------------------------------------- */

static ulong_t C_Initialize(void *arguments)
{
    ulong_t code = REAL(Initialize, (void *), (arguments));
    note("C_Initialize", code);
    return code;
}

static ulong_t C_GetSlotList(byte_t present, ulong_t *slots, ulong_t *count)
{
    orders_t o = now();
    if (o.gone && present) {
        *count = 0;
        return OK;
    }
    return REAL(GetSlotList, (byte_t, ulong_t *, ulong_t *), (present, slots, count));
}

static void padded(char *to, size_t size, const char *from)
{
    size_t length = strlen(from);
    memset(to, ' ', size);
    memcpy(to, from, length < size ? length : size);
}

static ulong_t C_GetTokenInfo(ulong_t slot, token_info_t *info)
{
    orders_t o = now();
    ulong_t code;
    if (o.gone)
        return TOKEN_NOT_PRESENT;
    code = REAL(GetTokenInfo, (ulong_t, token_info_t *), (slot, info));
    if (code != OK)
        return mapped(&o, code);
    if (o.final_try)
        info->flags |= FINAL_TRY;
    if (o.sessions)
        info->max_sessions = info->max_rw = (ulong_t)o.sessions;
    if (o.manufacturer[0])
        padded(info->manufacturer, sizeof info->manufacturer, o.manufacturer);
    if (o.model[0])
        padded(info->model, sizeof info->model, o.model);
    if (o.firmware[0] >= 0) {
        info->firmware.major = (byte_t)o.firmware[0];
        info->firmware.minor = (byte_t)o.firmware[1];
    }
    return OK;
}

static ulong_t C_GetMechanismList(ulong_t slot, ulong_t *list, ulong_t *count)
{
    orders_t o = now();
    ulong_t all[512], number = 512, kept = 0, code;
    if (o.gone)
        return TOKEN_NOT_PRESENT;
    code = REAL(GetMechanismList, (ulong_t, ulong_t *, ulong_t *), (slot, all, &number));
    if (code != OK)
        return code;
    for (ulong_t at = 0; at < number; at++) {
        if (o.kwp && all[at] == KEY_WRAP_PAD)
            all[kept++] = o.kwp;
        else if (!is_missing(&o, all[at]))
            all[kept++] = all[at];
    }
    if (list != NULL && *count < kept) {
        *count = kept;
        return BUFFER_TOO_SMALL;
    }
    if (list != NULL)
        memcpy(list, all, kept * sizeof *list);
    *count = kept;
    return OK;
}

/* Return what the real module calls this mechanism; NONE where it is to be missing. */
static ulong_t theirs(const orders_t *o, ulong_t mechanism)
{
    if (o->kwp && mechanism == o->kwp)
        return KEY_WRAP_PAD;
    return is_missing(o, mechanism) ? NONE : mechanism;
}

static ulong_t C_GetMechanismInfo(ulong_t slot, ulong_t mechanism, mechanism_info_t *info)
{
    orders_t o = now();
    ulong_t number = theirs(&o, mechanism);
    if (o.gone)
        return TOKEN_NOT_PRESENT;
    if (number == NONE)
        return MECHANISM_INVALID;
    return REAL(GetMechanismInfo, (ulong_t, ulong_t, mechanism_info_t *), (slot, number, info));
}

static ulong_t C_OpenSession(ulong_t slot, ulong_t flags, void *application, void *notify, ulong_t *session)
{
    orders_t o = now();
    ulong_t code;
    if (o.gone)
        code = TOKEN_NOT_PRESENT;
    else if (o.sessions && __atomic_load_n(&open_sessions, __ATOMIC_SEQ_CST) >= o.sessions)
        code = SESSION_COUNT;
    else
        code = REAL(OpenSession, (ulong_t, ulong_t, void *, void *, ulong_t *),
                    (slot, flags, application, notify, session));
    if (code == OK)
        __atomic_add_fetch(&open_sessions, 1, __ATOMIC_SEQ_CST);
    take_error("C_OpenSession", &code);
    note("C_OpenSession", code);
    return mapped(&o, code);
}

static ulong_t C_CloseSession(ulong_t session)
{
    ulong_t code = REAL(CloseSession, (ulong_t), (session));
    if (code == OK)
        __atomic_sub_fetch(&open_sessions, 1, __ATOMIC_SEQ_CST);
    return code;
}

static ulong_t C_CloseAllSessions(ulong_t slot)
{
    ulong_t code = REAL(CloseAllSessions, (ulong_t), (slot));
    if (code == OK)
        __atomic_store_n(&open_sessions, 0, __ATOMIC_SEQ_CST);
    return code;
}

static ulong_t C_Login(ulong_t session, ulong_t user, byte_t *pin, ulong_t length)
{
    orders_t o = now();
    ulong_t code = o.gone ? TOKEN_NOT_PRESENT
                          : REAL(Login, (ulong_t, ulong_t, byte_t *, ulong_t), (session, user, pin, length));
    take_error("C_Login", &code);
    note("C_Login", code);
    return mapped(&o, code);
}

/* --- encryption ------------------------------------------------------------------------------------------------------ */

/* Which sessions encrypt with an IV that the HSM made, and which. A session is used by one thread at a time. */
#define PLACES 4096
static struct { ulong_t session; byte_t iv[IV_BYTES]; int appended; } made[PLACES];

static ulong_t C_EncryptInit(ulong_t session, mechanism_t *how, ulong_t key)
{
    orders_t o = now();
    mechanism_t real_how = *how;
    gcm_t own;
    ulong_t code = OK;
    made[session % PLACES].session = 0;
    if (o.gone)
        return TOKEN_NOT_PRESENT;
    real_how.mechanism = theirs(&o, how->mechanism);
    if (real_how.mechanism == NONE)
        return MECHANISM_INVALID;
    if (how->mechanism == AES_GCM && o.iv != IV_OURS) {
        gcm_t *params = how->parameter;
        ulong_t (*random)(ulong_t, byte_t *, ulong_t) = real->call[F_GenerateRandom];
        own = *params;
        if (o.iv == IV_APPENDED && params->iv_len != 0)
            return PARAM_INVALID; /* as Luna in FIPS mode: callers may not bring one */
        if (o.iv == IV_PARAMS && (params->iv == NULL || params->iv_len < IV_BYTES))
            return PARAM_INVALID;
        if ((code = random(session, made[session % PLACES].iv, IV_BYTES)) != OK)
            return mapped(&o, code);
        own.iv = made[session % PLACES].iv;
        own.iv_len = IV_BYTES;
        own.iv_bits = IV_BYTES * 8;
        real_how.parameter = &own;
        if (o.iv == IV_PARAMS) {
            memcpy(params->iv, own.iv, IV_BYTES);
            params->iv_len = IV_BYTES;
            params->iv_bits = IV_BYTES * 8;
        } else {
            made[session % PLACES].appended = 1;
            made[session % PLACES].session = session;
        }
    }
    code = REAL(EncryptInit, (ulong_t, mechanism_t *, ulong_t), (session, &real_how, key));
    take_error("C_EncryptInit", &code);
    return mapped(&o, code);
}

static ulong_t C_Encrypt(ulong_t session, byte_t *data, ulong_t size, byte_t *out, ulong_t *length)
{
    ulong_t code, room = *length;
    int append = made[session % PLACES].session == session && made[session % PLACES].appended;
    orders_t o = now();
    if (o.gone)
        return TOKEN_NOT_PRESENT;
    if (append && out != NULL)
        *length = room > IV_BYTES ? room - IV_BYTES : 0;
    code = REAL(Encrypt, (ulong_t, byte_t *, ulong_t, byte_t *, ulong_t *), (session, data, size, out, length));
    if (append && (code == OK || code == BUFFER_TOO_SMALL)) {
        if (code == OK && out != NULL)
            memcpy(out + *length, made[session % PLACES].iv, IV_BYTES);
        *length += IV_BYTES;
    }
    if (out == NULL || code == BUFFER_TOO_SMALL)
        return mapped(&o, code);
    if (code == OK && o.corrupt)
        out[0] ^= 1;
    return befall("C_Encrypt", code, o);
}

static ulong_t C_DecryptInit(ulong_t session, mechanism_t *how, ulong_t key)
{
    orders_t o = now();
    mechanism_t real_how = *how;
    ulong_t code;
    if (o.gone)
        return TOKEN_NOT_PRESENT;
    real_how.mechanism = theirs(&o, how->mechanism);
    if (real_how.mechanism == NONE)
        return MECHANISM_INVALID;
    code = REAL(DecryptInit, (ulong_t, mechanism_t *, ulong_t), (session, &real_how, key));
    take_error("C_DecryptInit", &code);
    return mapped(&o, code);
}

static ulong_t C_Decrypt(ulong_t session, byte_t *data, ulong_t size, byte_t *out, ulong_t *length)
{
    orders_t o = now();
    ulong_t code;
    if (o.gone)
        return TOKEN_NOT_PRESENT;
    code = REAL(Decrypt, (ulong_t, byte_t *, ulong_t, byte_t *, ulong_t *), (session, data, size, out, length));
    if (out == NULL || code == BUFFER_TOO_SMALL)
        return mapped(&o, code);
    return befall("C_Decrypt", code, o);
}

static ulong_t C_GenerateRandom(ulong_t session, byte_t *out, ulong_t size)
{
    orders_t o = now();
    if (o.gone)
        return TOKEN_NOT_PRESENT;
    return befall("C_GenerateRandom", REAL(GenerateRandom, (ulong_t, byte_t *, ulong_t), (session, out, size)), o);
}

static ulong_t C_WrapKey(ulong_t session, mechanism_t *how, ulong_t wrapping, ulong_t key, byte_t *out, ulong_t *length)
{
    orders_t o = now();
    mechanism_t real_how = *how;
    ulong_t code;
    if (o.gone)
        return TOKEN_NOT_PRESENT;
    real_how.mechanism = theirs(&o, how->mechanism);
    if (real_how.mechanism == NONE)
        return MECHANISM_INVALID;
    code = REAL(WrapKey, (ulong_t, mechanism_t *, ulong_t, ulong_t, byte_t *, ulong_t *),
                (session, &real_how, wrapping, key, out, length));
    take_error("C_WrapKey", &code);
    return mapped(&o, code);
}

static ulong_t C_UnwrapKey(ulong_t session, mechanism_t *how, ulong_t wrapping, byte_t *blob, ulong_t size,
                           void *template, ulong_t count, ulong_t *key)
{
    orders_t o = now();
    mechanism_t real_how = *how;
    ulong_t code;
    if (o.gone)
        return TOKEN_NOT_PRESENT;
    real_how.mechanism = theirs(&o, how->mechanism);
    if (real_how.mechanism == NONE)
        return MECHANISM_INVALID;
    code = REAL(UnwrapKey, (ulong_t, mechanism_t *, ulong_t, byte_t *, ulong_t, void *, ulong_t, ulong_t *),
                (session, &real_how, wrapping, blob, size, template, count, key));
    take_error("C_UnwrapKey", &code);
    return mapped(&o, code);
}

PASS(FindObjectsInit, (ulong_t, void *, ulong_t), (ulong_t session, void *template, ulong_t count),
     (session, template, count))
PASS(FindObjects, (ulong_t, ulong_t *, ulong_t, ulong_t *),
     (ulong_t session, ulong_t *found, ulong_t most, ulong_t *count), (session, found, most, count))
PASS(CreateObject, (ulong_t, void *, ulong_t, ulong_t *),
     (ulong_t session, void *template, ulong_t count, ulong_t *key), (session, template, count, key))
PASS(DestroyObject, (ulong_t, ulong_t), (ulong_t session, ulong_t key), (session, key))
PASS(GetAttributeValue, (ulong_t, ulong_t, void *, ulong_t),
     (ulong_t session, ulong_t key, void *template, ulong_t count), (session, key, template, count))
PASS(SetAttributeValue, (ulong_t, ulong_t, void *, ulong_t),
     (ulong_t session, ulong_t key, void *template, ulong_t count), (session, key, template, count))
PASS(GenerateKey, (ulong_t, void *, void *, ulong_t, ulong_t *),
     (ulong_t session, void *how, void *template, ulong_t count, ulong_t *key), (session, how, template, count, key))
PASS(GenerateKeyPair, (ulong_t, void *, void *, ulong_t, void *, ulong_t, ulong_t *, ulong_t *),
     (ulong_t session, void *how, void *public, ulong_t publics, void *private, ulong_t privates, ulong_t *ours_,
      ulong_t *theirs_), (session, how, public, publics, private, privates, ours_, theirs_))

/* --- the list -------------------------------------------------------------------------------------------------------- */

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void load(void)
{
    const char *path = getenv("KEYSTEAD_SHIM_MODULE");
    void *library = path == NULL ? NULL : dlopen(path, RTLD_NOW | RTLD_LOCAL);
    ulong_t (*get_list)(list_t **) = library == NULL ? NULL : (ulong_t(*)(list_t **))dlsym(library, "C_GetFunctionList");
    if (get_list == NULL || get_list(&real) != OK) {
        fprintf(stderr, "shim: %s cannot be loaded\n", path == NULL ? "KEYSTEAD_SHIM_MODULE" : path);
        real = NULL;
        return;
    }
    ours = *real;
#define OURS(function) ours.call[F_##function] = (void *)C_##function
    OURS(Initialize); OURS(GetSlotList); OURS(GetTokenInfo); OURS(GetMechanismList); OURS(GetMechanismInfo);
    OURS(OpenSession); OURS(CloseSession); OURS(CloseAllSessions); OURS(Login); OURS(EncryptInit); OURS(Encrypt);
    OURS(DecryptInit); OURS(Decrypt); OURS(GenerateRandom); OURS(WrapKey); OURS(UnwrapKey); OURS(FindObjectsInit);
    OURS(FindObjects); OURS(CreateObject); OURS(DestroyObject); OURS(GetAttributeValue); OURS(SetAttributeValue);
    OURS(GenerateKey); OURS(GenerateKeyPair);
}

/* As in Luna's library: the value of a policy of the HSM. */
__attribute__((visibility("default"))) ulong_t CA_GetHSMPolicySetting(ulong_t slot, ulong_t policy, ulong_t *value)
{
    orders_t o = now();
    (void)slot;
    if (policy != 50 || o.fm < 0)
        return GENERAL_ERROR;
    *value = (ulong_t)o.fm;
    return OK;
}

__attribute__((visibility("default"))) ulong_t C_GetFunctionList(list_t **list)
{
    pthread_once(&once, load);
    if (real == NULL)
        return GENERAL_ERROR;
    ours.call[F_GetFunctionList] = (void *)C_GetFunctionList;
    *list = &ours;
    return OK;
}
