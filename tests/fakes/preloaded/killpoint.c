/* A process that dies at the k-th of its calls that change what is on disk.
 *
 * Counted are syncs, writes, truncations, renames, removals and new directories on what is at or
 * below KILLPOINT_DIR. The file KILLPOINT_COUNT holds the count, one int64 in the machine's byte
 * order; it is mapped, so that it is there after the process has died. KILLPOINT_AT says which
 * call is the last, from 1; 0 only counts. KILLPOINT_WHEN says when in that call: `before` it,
 * `after` it, or `torn`: in the middle of a write, and after any other call.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static _Atomic int64_t *counted;

static int below(const char *path) {
    const char *root = getenv("KILLPOINT_DIR");
    size_t prefix = strlen(root);
    return strncmp(path, root, prefix) == 0 && (path[prefix] == '/' || path[prefix] == 0);
}

static int fd_path(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
    return length > 0;
}

static int fd_matters(int fd) {
    char path[PATH_MAX];
    struct stat status;
    return getenv("KILLPOINT_DIR") != NULL && fstat(fd, &status) == 0 &&
           (S_ISREG(status.st_mode) || S_ISDIR(status.st_mode)) && fd_path(fd, path) && below(path);
}

static int path_matters(int at, const char *path) {
    char whole[PATH_MAX];
    if (getenv("KILLPOINT_DIR") == NULL) return 0;
    if (path[0] == '/') return below(path);
    if (at == AT_FDCWD) return getcwd(whole, sizeof whole) != NULL && below(whole);
    return fd_path(at, whole) && below(whole);
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* Whether this call is the last one; the process is gone if it was to die before it. */
static int is_last(void) {
    if (counted == NULL) {
        int fd = open(getenv("KILLPOINT_COUNT"), O_RDWR | O_CLOEXEC);
        void *map = mmap(NULL, sizeof *counted, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (fd < 0 || map == MAP_FAILED) abort();
        close(fd);
        counted = map;
    }
    if (atomic_fetch_add(counted, 1) + 1 != atoll(getenv("KILLPOINT_AT"))) return 0;
    if (strcmp(getenv("KILLPOINT_WHEN"), "before") == 0) die();
    return 1;
}

static int torn(void) { return strcmp(getenv("KILLPOINT_WHEN"), "torn") == 0; }

/* What the caller would have called without us. */
#define REAL(name)                    \
    static __typeof__(&name) real;    \
    if (real == NULL) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

/* A call as a whole: `matters` says whether it counts. */
#define CALL(name, parameters, arguments, matters) \
    int name parameters {                          \
        REAL(name);                                \
        int last = (matters) && is_last();         \
        int result = real arguments;               \
        if (last) die();                           \
        return result;                             \
    }

CALL(fsync, (int fd), (fd), fd_matters(fd))
CALL(fdatasync, (int fd), (fd), fd_matters(fd))
CALL(ftruncate, (int fd, off_t size), (fd, size), fd_matters(fd))
CALL(ftruncate64, (int fd, off64_t size), (fd, size), fd_matters(fd))
CALL(unlink, (const char *path), (path), path_matters(AT_FDCWD, path))
CALL(unlinkat, (int at, const char *path, int flags), (at, path, flags), path_matters(at, path))
CALL(rename, (const char *from, const char *to), (from, to), path_matters(AT_FDCWD, to))
CALL(renameat, (int a, const char *from, int b, const char *to), (a, from, b, to),
     path_matters(b, to))
CALL(renameat2, (int a, const char *from, int b, const char *to, unsigned flags),
     (a, from, b, to, flags), path_matters(b, to))
CALL(mkdir, (const char *path, mode_t mode), (path, mode), path_matters(AT_FDCWD, path))
CALL(mkdirat, (int at, const char *path, mode_t mode), (at, path, mode), path_matters(at, path))

/* A write of one buffer: its first half can be all that happens. */
#define WRITE(name, parameters, arguments)         \
    ssize_t name parameters {                      \
        REAL(name);                                \
        int last = fd_matters(fd) && is_last();    \
        if (last && torn()) size /= 2;             \
        ssize_t result = real arguments;           \
        if (last) die();                           \
        return result;                             \
    }

WRITE(write, (int fd, const void *data, size_t size), (fd, data, size))
WRITE(pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at))
WRITE(pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at))

static void write_half(int fd, const struct iovec *parts, int count, off64_t at) {
    size_t whole = 0, done = 0;
    for (int each = 0; each < count; each++) whole += parts[each].iov_len;
    for (int each = 0; each < count && done < whole / 2; each++) {
        size_t size = parts[each].iov_len;
        if (size > whole / 2 - done) size = whole / 2 - done;
        REAL(pwrite64);
        real(fd, parts[each].iov_base, size, at + done);
        done += size;
    }
    die();
}

/* A write of several buffers at an offset. */
#define WRITE_PARTS(name, parameters, arguments)           \
    ssize_t name parameters {                              \
        REAL(name);                                        \
        int last = fd_matters(fd) && is_last();            \
        if (last && torn()) write_half(fd, parts, n, at);  \
        ssize_t result = real arguments;                   \
        if (last) die();                                   \
        return result;                                     \
    }

WRITE_PARTS(pwritev, (int fd, const struct iovec *parts, int n, off_t at), (fd, parts, n, at))
WRITE_PARTS(pwritev64, (int fd, const struct iovec *parts, int n, off64_t at), (fd, parts, n, at))
WRITE_PARTS(pwritev2, (int fd, const struct iovec *parts, int n, off_t at, int flags),
            (fd, parts, n, at, flags))
WRITE_PARTS(pwritev64v2, (int fd, const struct iovec *parts, int n, off64_t at, int flags),
            (fd, parts, n, at, flags))
