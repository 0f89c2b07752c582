/* Helper of test_power_cut.py, preloaded into one process: notes, in their order, all that changes files under $DISK_ROOT.

   An entry: operation (1 byte), offset or size (8), length of the path (4), of the data (4), path, data.
   Operations: O created, W written, T cut or made longer, F synced, R renamed (the data is the new path), U removed. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#define MOST 1024
static char *paths[MOST];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int is_ours(const char *path) {
    const char *root = getenv("DISK_ROOT");
    return root && path && strncmp(path, root, strlen(root)) == 0;
}

static void put(int fd, const void *data, size_t size) {
    while (size) {
        ssize_t done = REAL(write)(fd, data, size);
        if (done <= 0) abort();
        data = (const char *)data + done, size -= done;
    }
}

static void note(char operation, const char *path, uint64_t at, const void *data, uint32_t size) {
    static int log = -1;
    uint32_t length = strlen(path);
    if (log < 0) log = REAL(open)(getenv("DISK_LOG"), O_WRONLY | O_CREAT | O_APPEND, 0600);
    put(log, &operation, 1), put(log, &at, 8), put(log, &length, 4), put(log, &size, 4);
    put(log, path, length), put(log, data, size);
}

/* The change and its entry are one step: what one thread syncs is not what another is about to write. */
#define STEP(result, call, ...) \
    pthread_mutex_lock(&lock); \
    result = call; \
    __VA_ARGS__; \
    pthread_mutex_unlock(&lock)

static int opened(int fd, const char *path, int flags, int existed) {
    if (fd >= 0 && fd < MOST && is_ours(path)) {
        free(paths[fd]);
        paths[fd] = strdup(path);
        if (!existed) note('O', path, 0, "", 0);
        else if (flags & O_TRUNC) note('T', path, 0, "", 0);
    }
    return fd;
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
        int fd, existed = access(path, F_OK) == 0; \
        STEP(fd, REAL(name)(path, flags, mode), opened(fd, path, flags, existed)); \
        return fd; \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
        int fd, existed = access(path, F_OK) == 0; \
        STEP(fd, REAL(name)(folder, path, flags, mode), opened(fd, path, flags, existed)); \
        return fd; \
    }
OPENAT(openat)
OPENAT(openat64)

int close(int fd) {
    pthread_mutex_lock(&lock);
    if (fd >= 0 && fd < MOST) free(paths[fd]), paths[fd] = NULL;
    pthread_mutex_unlock(&lock);
    return REAL(close)(fd);
}

static const char *known(int fd) { return fd >= 0 && fd < MOST ? paths[fd] : NULL; }

ssize_t write(int fd, const void *data, size_t size) {
    ssize_t done;
    if (!known(fd)) return REAL(write)(fd, data, size);
    STEP(done, REAL(write)(fd, data, size),
         if (done > 0) note('W', known(fd), lseek(fd, 0, SEEK_CUR) - done, data, done));
    return done;
}

#define PWRITE(name, offset) \
    ssize_t name(int fd, const void *data, size_t size, offset at) { \
        ssize_t done; \
        if (!known(fd)) return REAL(name)(fd, data, size, at); \
        STEP(done, REAL(name)(fd, data, size, at), if (done > 0) note('W', known(fd), at, data, done)); \
        return done; \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define RESIZE(name, offset) \
    int name(int fd, offset size) { \
        int failed; \
        STEP(failed, REAL(name)(fd, size), if (!failed && known(fd)) note('T', known(fd), size, "", 0)); \
        return failed; \
    }
RESIZE(ftruncate, off_t)
RESIZE(ftruncate64, off64_t)

static void grown(int fd, uint64_t size) {
    struct stat now;
    if (known(fd) && fstat(fd, &now) == 0) note('T', known(fd), size > (uint64_t)now.st_size ? size : now.st_size, "", 0);
}
#define ALLOCATE(name, offset) \
    int name(int fd, offset at, offset size) { \
        int failed; \
        STEP(failed, REAL(name)(fd, at, size), if (!failed) grown(fd, at + size)); \
        return failed; \
    }
ALLOCATE(posix_fallocate, off_t)
ALLOCATE(posix_fallocate64, off64_t)

#define SYNC(name) \
    int name(int fd) { \
        int failed; \
        STEP(failed, REAL(name)(fd), if (!failed && known(fd)) note('F', known(fd), 0, "", 0)); \
        return failed; \
    }
SYNC(fsync)
SYNC(fdatasync)

int rename(const char *from, const char *to) {
    int failed;
    STEP(failed, REAL(rename)(from, to), if (!failed && is_ours(from)) note('R', from, 0, to, strlen(to)));
    return failed;
}

int unlink(const char *path) {
    int failed;
    STEP(failed, REAL(unlink)(path), if (!failed && is_ours(path)) note('U', path, 0, "", 0));
    return failed;
}
