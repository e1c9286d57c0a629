/* Faults below a program, for tests: cc -shared -fPIC -O1 -o faults.so faults.c -ldl, then LD_PRELOAD=faults.so.

   Counts file operations on paths that contain FAULT_FOLDER, and at number FAULT_AT (from 1) does FAULT_KIND:
     kill    SIGKILL before the operation        killed  SIGKILL after it
     enospc  it and all later writes fail with ENOSPC
     eio     it alone fails with EIO             short   a write takes only half of its bytes
     slow    it and all later ones take FAULT_MS milliseconds more
   FAULT_OPS: which count, a subset of "open,write,read,fsync,rename,unlink,mkdir". FAULT_RANK: only the process with this RANK_ID.
   FAULT_LOG: a file that gets the name of every operation counted, to find out how many there are.
   CLOCK_JUMP: seconds that the wall clock (not the monotonic one) is ahead from CLOCK_AFTER seconds after the start on. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#define MAX_FDS 65536
static char watched[MAX_FDS];
static long count;

static const char *folder(void) {
    const char *rank = getenv("FAULT_RANK"), *own = getenv("RANK_ID"), *role = getenv("MS_ROLE");
    if (rank && (!own || strcmp(rank, own) || (role && strcmp(role, "MS_WORKER")))) return NULL;
    return getenv("FAULT_FOLDER");
}
static int is_ours(const char *path) {
    const char *wanted = folder();
    return wanted && path && strstr(path, wanted) != NULL;
}
static int is_ours_at(int dir, const char *path) {
    return is_ours(path) || (path && path[0] != '/' && dir >= 0 && dir < MAX_FDS && watched[dir] && folder());
}
static int is(const char *kind) {
    const char *wanted = getenv("FAULT_KIND");
    return wanted && strcmp(wanted, kind) == 0;
}
/* 0: go on; 1: short write; -1: fail with errno set; 2: kill after */
static int fault(const char *op) {
    const char *ops = getenv("FAULT_OPS"), *at = getenv("FAULT_AT"), *log = getenv("FAULT_LOG");
    if (ops && !strstr(ops, op)) return 0;
    long now = __sync_add_and_fetch(&count, 1);
    if (log) {
        int saved = errno;
        static int (*real_open)(const char *, int, ...);
        static ssize_t (*real_write)(int, const void *, size_t);
        static int (*real_close)(int);
        if (!real_open) real_open = dlsym(RTLD_NEXT, "open"), real_write = dlsym(RTLD_NEXT, "write"), real_close = dlsym(RTLD_NEXT, "close");
        int fd = real_open(log, O_WRONLY | O_CREAT | O_APPEND, 0644);
        char line[32];
        int length = snprintf(line, sizeof line, "%s\n", op);
        if (fd >= 0) { if (real_write(fd, line, length) < 0) {} real_close(fd); }
        errno = saved;
    }
    if (!at || now < atol(at)) return 0;
    int first = now == atol(at);
    if (is("slow")) {
        const char *ms = getenv("FAULT_MS");
        long wait = ms ? atol(ms) : 20;
        struct timespec pause = {wait / 1000, wait % 1000 * 1000000};
        nanosleep(&pause, NULL);
        return 0;
    }
    if (is("enospc")) {
        if (strcmp(op, "write") && strcmp(op, "open") && strcmp(op, "mkdir") && strcmp(op, "fsync")) return 0;
        errno = ENOSPC;
        return -1;
    }
    if (!first) return 0;
    if (is("kill")) kill(getpid(), SIGKILL);
    if (is("killed")) return 2;
    if (is("eio")) { errno = EIO; return -1; }
    if (is("short") && strcmp(op, "write") == 0) return 1;
    return 0;
}
#define REAL(type, name, ...) static type (*real)(__VA_ARGS__); if (!real) real = dlsym(RTLD_NEXT, name)
#define RUN(op, ours, call) do { int f = (ours) ? fault(op) : 0; if (f < 0) return -1; \
        __typeof__(call) r = call; if (f == 2) kill(getpid(), SIGKILL); return r; } while (0)

static int remember(int fd, int ours) {
    if (fd >= 0 && fd < MAX_FDS) watched[fd] = ours;
    return fd;
}
#define OPEN(symbol) \
    int symbol(const char *path, int flags, ...) { \
        REAL(int, #symbol, const char *, int, ...); \
        mode_t mode = 0; \
        if (flags & (O_CREAT | O_TMPFILE)) { va_list list; va_start(list, flags); mode = va_arg(list, mode_t); va_end(list); } \
        int ours = is_ours(path), f = ours && (flags & O_CREAT) ? fault("open") : 0; \
        if (f < 0) return -1; \
        int fd = remember(real(path, flags, mode), ours); \
        if (f == 2) kill(getpid(), SIGKILL); \
        return fd; \
    }
OPEN(open)
OPEN(open64)
#define OPENAT(symbol) \
    int symbol(int dir, const char *path, int flags, ...) { \
        REAL(int, #symbol, int, const char *, int, ...); \
        mode_t mode = 0; \
        if (flags & (O_CREAT | O_TMPFILE)) { va_list list; va_start(list, flags); mode = va_arg(list, mode_t); va_end(list); } \
        int ours = is_ours_at(dir, path), f = ours && (flags & O_CREAT) ? fault("open") : 0; \
        if (f < 0) return -1; \
        int fd = remember(real(dir, path, flags, mode), ours); \
        if (f == 2) kill(getpid(), SIGKILL); \
        return fd; \
    }
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    int f = fd >= 0 && fd < MAX_FDS && watched[fd] ? fault("write") : 0;
    if (f < 0) return -1;
    ssize_t done = real(fd, data, f == 1 && size > 1 ? size / 2 : size);
    if (f == 2) kill(getpid(), SIGKILL);
    return done;
}
ssize_t read(int fd, void *data, size_t size) {
    REAL(ssize_t, "read", int, void *, size_t);
    RUN("read", fd >= 0 && fd < MAX_FDS && watched[fd], real(fd, data, size));
}
int close(int fd) {
    REAL(int, "close", int);
    if (fd >= 0 && fd < MAX_FDS) watched[fd] = 0;
    return real(fd);
}
int fsync(int fd) {
    REAL(int, "fsync", int);
    RUN("fsync", fd >= 0 && fd < MAX_FDS && watched[fd], real(fd));
}
int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    RUN("rename", is_ours(from), real(from, to));
}
int renameat(int a, const char *from, int b, const char *to) {
    REAL(int, "renameat", int, const char *, int, const char *);
    RUN("rename", is_ours_at(a, from), real(a, from, b, to));
}
int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    RUN("unlink", is_ours(path), real(path));
}
int unlinkat(int dir, const char *path, int flags) {
    REAL(int, "unlinkat", int, const char *, int);
    RUN("unlink", is_ours_at(dir, path), real(dir, path, flags));
}
int rmdir(const char *path) {
    REAL(int, "rmdir", const char *);
    RUN("unlink", is_ours(path), real(path));
}
int mkdir(const char *path, mode_t mode) {
    REAL(int, "mkdir", const char *, mode_t);
    RUN("mkdir", is_ours(path), real(path, mode));
}

static long jump(void) {
    static struct timespec begun;
    static int (*real)(clockid_t, struct timespec *);
    struct timespec now;
    const char *size = getenv("CLOCK_JUMP"), *after = getenv("CLOCK_AFTER");
    if (!size) return 0;
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    real(CLOCK_MONOTONIC, &now);
    if (!begun.tv_sec) begun = now;
    return now.tv_sec - begun.tv_sec >= (after ? atol(after) : 0) ? atol(size) : 0;
}
int clock_gettime(clockid_t clock, struct timespec *result) {
    REAL(int, "clock_gettime", clockid_t, struct timespec *);
    int code = real(clock, result);
    if (clock == CLOCK_REALTIME && code == 0) result->tv_sec += jump();
    return code;
}
time_t time(time_t *result) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result) *result = now.tv_sec;
    return now.tv_sec;
}
