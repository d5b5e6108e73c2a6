/* A disk that keeps only what was synced: the rest is gone when the power fails.
 *
 * What a power cut would leave of the directory POWERLOSS_DIR is kept in POWERLOSS_KEPT:
 *
 *   data/INODE      the content of a file, as it was at its last fsync or fdatasync
 *   entries/INODE   the names in a directory, as they were at its last sync, each after its kind
 *                   and inode and ended by a NUL: "f 123 name", "d 124 name"
 *
 * A name that is created, or is the new one of a rename, is therefore kept only once its directory
 * was synced, and a file that was never synced is kept empty. An unlink is kept at once: on the
 * file systems that matter it is never undone while something later is kept, and the number of the
 * inode may be given to another file.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What the caller would have called without us. */
#define REAL(name)                    \
    static __typeof__(&name) real;    \
    if (real == NULL) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static void die(const char *what) {
    perror(what);
    abort(); /* A test that goes on without its shim would prove nothing. */
}

/* The path that a descriptor stands for; false when it is not below POWERLOSS_DIR. */
static int path_of(int fd, char *path) {
    const char *root = getenv("POWERLOSS_DIR");
    char link[64];
    if (root == NULL) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    size_t prefix = strlen(root);
    return strncmp(path, root, prefix) == 0 && (path[prefix] == '/' || path[prefix] == 0);
}

static void kept_path(char *path, const char *kind, ino_t inode) {
    snprintf(path, PATH_MAX, "%s/%s/%ju", getenv("POWERLOSS_KEPT"), kind, (uintmax_t)inode);
}

static void write_all(int fd, const char *data, size_t size) {
    while (size > 0) {
        ssize_t written = write(fd, data, size);
        if (written < 0) die("powerloss: write");
        data += written;
        size -= written;
    }
}

/* A kept thing is replaced as a whole: the process may be killed while it is copied. */
static int begin(const char *path, char *partial) {
    snprintf(partial, PATH_MAX + 32, "%s.%ld", path, (long)syscall(SYS_gettid));
    int fd = open(partial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) die("powerloss: create");
    return fd;
}

static void finish(int fd, const char *partial, const char *path) {
    close(fd);
    if (rename(partial, path) != 0) die("powerloss: rename");
}

static void keep_data(const char *source, ino_t inode) {
    char path[PATH_MAX], partial[PATH_MAX + 32], buffer[1 << 16];
    kept_path(path, "data", inode);
    int from = open(source, O_RDONLY | O_CLOEXEC); /* the descriptor may be write-only */
    if (from < 0) return;                          /* it has no name any more */
    int to = begin(path, partial);
    for (ssize_t size; (size = read(from, buffer, sizeof buffer)) != 0;) {
        if (size < 0) die("powerloss: read");
        write_all(to, buffer, size);
    }
    close(from);
    finish(to, partial, path);
}

static void keep_entries(const char *directory, ino_t inode) {
    char path[PATH_MAX], partial[PATH_MAX + 32];
    kept_path(path, "entries", inode);
    DIR *listing = opendir(directory);
    if (listing == NULL) return;
    int to = begin(path, partial);
    for (struct dirent *entry; (entry = readdir(listing)) != NULL;) {
        char line[PATH_MAX];
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        int size = snprintf(line, sizeof line, "%c %ju %s", entry->d_type == DT_DIR ? 'd' : 'f',
                            (uintmax_t)entry->d_ino, entry->d_name);
        write_all(to, line, size + 1);
    }
    closedir(listing);
    finish(to, partial, path);
}

static void keep(int fd) {
    char path[PATH_MAX];
    struct stat status;
    if (!path_of(fd, path) || fstat(fd, &status) != 0) return;
    if (S_ISDIR(status.st_mode)) keep_entries(path, status.st_ino);
    if (S_ISREG(status.st_mode)) keep_data(path, status.st_ino);
}

int fsync(int fd) {
    REAL(fsync);
    int result = real(fd);
    if (result == 0) keep(fd);
    return result;
}

int fdatasync(int fd) {
    REAL(fdatasync);
    int result = real(fd);
    if (result == 0) keep(fd);
    return result;
}

/* Copy the entries of a directory, but for one name. */
static void forget_entry(ino_t directory, const char *name) {
    char path[PATH_MAX], partial[PATH_MAX + 32], *line = NULL;
    size_t size = 0;
    kept_path(path, "entries", directory);
    FILE *from = fopen(path, "re");
    if (from == NULL) return; /* nothing was kept of it */
    int to = begin(path, partial);
    for (ssize_t length; (length = getdelim(&line, &size, 0, from)) > 0;) {
        const char *its = strchr(strchr(line, ' ') + 1, ' ') + 1;
        if (strcmp(its, name) != 0) write_all(to, line, length);
    }
    free(line);
    fclose(from);
    finish(to, partial, path);
}

int unlinkat(int at, const char *path, int flags) {
    REAL(unlinkat);
    struct stat gone, parent;
    char directory[PATH_MAX], whole[PATH_MAX], kept[PATH_MAX];
    const char *slash = strrchr(path, '/');
    int known = getenv("POWERLOSS_DIR") != NULL && fstatat(at, path, &gone, AT_SYMLINK_NOFOLLOW) == 0;
    int result = real(at, path, flags);
    if (result != 0 || !known) return result;
    if (slash == NULL) strcpy(directory, ".");
    else snprintf(directory, sizeof directory, "%.*s/", (int)(slash - path), path);
    int fd = openat(at, directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return result;
    if (path_of(fd, whole) && fstat(fd, &parent) == 0) {
        forget_entry(parent.st_ino, slash == NULL ? path : slash + 1);
        kept_path(kept, S_ISDIR(gone.st_mode) ? "entries" : "data", gone.st_ino);
        if (S_ISDIR(gone.st_mode) || gone.st_nlink == 1) real(AT_FDCWD, kept, 0);
    }
    close(fd);
    return result;
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }

int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
