/* A disk whose syncs take as long as a file says.
 *
 * The file SLOWSYNC_FILE holds two int64 in the machine's byte order: how long an fsync or
 * fdatasync below SLOWSYNC_DIR takes, in nanoseconds, and how many are being held just now. It is
 * mapped, so that whoever writes it slows down a process that runs. A thread that is held ends
 * with its process, as one does that waits for a disk; one that a debugger holds would not.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000LL

/* What the caller would have called without us. */
#define REAL(name)                    \
    static __typeof__(&name) real;    \
    if (real == NULL) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

struct orders {
    _Atomic int64_t delay_ns;
    _Atomic int64_t held;
};

static struct orders *orders;

static int matters(int fd) {
    const char *root = getenv("SLOWSYNC_DIR");
    char link[64], path[PATH_MAX];
    if (root == NULL) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    return strncmp(path, root, strlen(root)) == 0;
}

static void hold(int fd) {
    if (!matters(fd)) return;
    if (orders == NULL) {
        int file = open(getenv("SLOWSYNC_FILE"), O_RDWR | O_CLOEXEC);
        void *map = mmap(NULL, sizeof *orders, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (file < 0 || map == MAP_FAILED) abort();
        close(file);
        orders = map;
    }
    int64_t delay_ns = orders->delay_ns;
    struct timespec delay = {delay_ns / NS_PER_S, delay_ns % NS_PER_S};
    if (delay_ns == 0) return;
    atomic_fetch_add(&orders->held, 1);
    nanosleep(&delay, NULL);
    atomic_fetch_sub(&orders->held, 1);
}

int fsync(int fd) {
    REAL(fsync);
    hold(fd);
    return real(fd);
}

int fdatasync(int fd) {
    REAL(fdatasync);
    hold(fd);
    return real(fd);
}
