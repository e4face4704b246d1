/* Watches the system calls of a program that change its state folder or reach a server, and can end it there.

   Loaded with LD_PRELOAD. Each call that is watched gets a number, from 1, over all threads, and a label that says
   what the program does: by the path, by the port of the server, or, for the ledger, by the SQL statement
   (`tripwire_phase`). Settings are read from the environment by `tripwire_arm`, at the start and after a fork:

     TRIPWIRE_ROOT    the state folder (an absolute path without links); nothing is watched without it
     TRIPWIRE_PORTS   `segment=1,downloads=2,collector=3`: calls to other servers are not watched
     TRIPWIRE_LOG     a file for what was seen: two lines for each call, before and after it
     TRIPWIRE_DATA    a file for the bytes that were written
     TRIPWIRE_AT      fire before the n-th call ...
     TRIPWIRE_LABEL   ... of those with this label,
     TRIPWIRE_LAST    or before the n-th call of all, at the latest
     TRIPWIRE_ACTION  `kill` (default), `half` (write half of the bytes, then kill), `stop` (SIGSTOP)
*/
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#define REAL(result, name, ...) \
  static result (*real)(__VA_ARGS__); \
  if (!real) real = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX], wanted[64], action[8], ports[3][16];
static int numbers[3];
static size_t root_length;
static int log_file = -1, data_file = -1;
static long fire_at, last_at, counted, seen;
static long long data_written;
static __thread char phase[64];
static __thread int ignored;

void tripwire_phase(const char *name) { snprintf(phase, sizeof phase, "%s", name); }

/* What this thread does is not watched while `is` is not 0. */
void tripwire_ignore(int is) { ignored = is; }

static int opened(const char *name) {
  const char *path = getenv(name);
  if (!path || !*path) return -1;
  int file = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  int high = syscall(SYS_fcntl, file, F_DUPFD_CLOEXEC, 900); /* out of the program's way */
  if (high < 0) return file;
  syscall(SYS_close, file);
  return high;
}

static const char *setting(const char *name, const char *otherwise) {
  const char *found = getenv(name);
  return found && *found ? found : otherwise;
}

__attribute__((constructor)) void tripwire_arm(void) {
  snprintf(root, sizeof root, "%s", setting("TRIPWIRE_ROOT", ""));
  root_length = strlen(root);
  snprintf(wanted, sizeof wanted, "%s", setting("TRIPWIRE_LABEL", ""));
  snprintf(action, sizeof action, "%s", setting("TRIPWIRE_ACTION", "kill"));
  sscanf(setting("TRIPWIRE_PORTS", ""), "%15[a-z]=%d,%15[a-z]=%d,%15[a-z]=%d", ports[0], &numbers[0], ports[1],
         &numbers[1], ports[2], &numbers[2]);
  fire_at = atol(setting("TRIPWIRE_AT", "0"));
  last_at = atol(setting("TRIPWIRE_LAST", "0"));
  counted = seen = 0;
  log_file = opened("TRIPWIRE_LOG");
  data_file = opened("TRIPWIRE_DATA");
}

/* The path of an open file below the state folder, relative to it; NULL for all others. */
static const char *below(const char *path) {
  if (strncmp(path, root, root_length)) return NULL;
  if (path[root_length] == 0) return ".";
  return path[root_length] == '/' ? path + root_length + 1 : NULL;
}

static const char *path_of(int file, char *buffer) {
  char name[40];
  snprintf(name, sizeof name, "/proc/self/fd/%d", file);
  long length = syscall(SYS_readlinkat, AT_FDCWD, name, buffer, PATH_MAX - 1);
  if (length <= 0) return NULL;
  buffer[length] = 0;
  return below(buffer);
}

static const char *path_at(int folder, const char *path, char *buffer) {
  if (path[0] == '/') snprintf(buffer, PATH_MAX, "%s", path);
  else {
    char link[40], base[PATH_MAX];
    if (folder == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
    else snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    long length = syscall(SYS_readlinkat, AT_FDCWD, link, base, PATH_MAX - 1);
    if (length <= 0) return NULL;
    base[length] = 0;
    if (!strcmp(path, ".")) snprintf(buffer, PATH_MAX, "%s", base);
    else if (snprintf(buffer, PATH_MAX, "%s/%s", base, path) >= PATH_MAX) return NULL;
  }
  return below(buffer);
}

static int starts(const char *text, const char *with) { return !strncmp(text, with, strlen(with)); }

static int ends(const char *text, const char *with) {
  size_t length = strlen(text), end = strlen(with);
  return length >= end && !strcmp(text + length - end, with);
}

static const char *label_of(const char *call, const char *path) {
  if (starts(path, "ledger.sqlite3")) return *phase ? phase : "ledger opened";
  if (starts(path, "spool/temporary-")) return "replay file";
  if (starts(path, "spool/")) {
    if (!strcmp(call, "rename")) return "rename";
    if (!ends(path, ".part")) return "unlink";
    int index = ends(path, ".exchanges.part");
    if (!strcmp(call, "write") || !strcmp(call, "pwrite")) return index ? "index written" : "part written";
    if (!strcmp(call, "fsync")) return index ? "index synced" : "part synced";
    return index ? "index" : "part";
  }
  if (!strcmp(path, "spool")) return "spool synced";
  if (starts(path, "digests")) return strcmp(call, "unlink") ? "digests saved" : "digests dropped";
  return starts(path, "ballast") ? "ballast" : "folder";
}

static void say(const char *text, int length) { if (log_file >= 0) syscall(SYS_write, log_file, text, length); }

/* Notes a call that is about to be made; returns its number. `half` does half of a write. */
static long before(const char *call, const char *label, const char *path, const char *other, long long at,
                   const void *data, size_t length) {
  char text[2 * PATH_MAX + 200];
  int saved = errno;
  pthread_mutex_lock(&lock);
  long number = ++seen;
  int fires = last_at && number == last_at;
  if (fire_at && (!*wanted || !strcmp(wanted, label))) fires |= ++counted == fire_at;
  long long where = -1;
  if (data && data_file >= 0) {
    where = data_written;
    data_written += length;
    for (size_t done = 0; done < length;) {
      long wrote = syscall(SYS_write, data_file, (const char *)data + done, length - done);
      if (wrote <= 0) break;
      done += wrote;
    }
  }
  int size = snprintf(text, sizeof text, "B\t%ld\t%d\t%s\t%s\t%s\t%s\t%lld\t%zu\t%lld\n", number,
                      (int)syscall(SYS_gettid), call, label, path, other, at, length, where);
  say(text, size);
  if (fires) {
    size = snprintf(text, sizeof text, "F\t%ld\n", number);
    say(text, size);
    if (!strcmp(action, "stop")) {
      pthread_mutex_unlock(&lock);
      syscall(SYS_kill, getpid(), SIGSTOP);
      errno = saved;
      return number;
    }
    if (!strcmp(action, "half")) { /* the lock stays held: no other thread gets on */
      errno = saved;
      return -number;
    }
    syscall(SYS_kill, getpid(), SIGKILL);
  }
  pthread_mutex_unlock(&lock);
  errno = saved;
  return number;
}

static void after(long number, long long result) {
  char text[64];
  int saved = errno;
  say(text, snprintf(text, sizeof text, "E\t%ld\t%lld\n", number, result));
  errno = saved;
}

static void die(void) {
  syscall(SYS_kill, getpid(), SIGKILL);
  for (;;) pause();
}

static int watches(void) { return root_length && !ignored; }

#define IF_BELOW(path) if (watches() && (path))

/* -- opening: what creates or empties a file -- */

static int do_open(int folder, const char *path, int flags, mode_t mode) {
  char buffer[PATH_MAX];
  const char *found;
  struct stat there;
  if ((flags & (O_CREAT | O_TRUNC)) && !(flags & O_DIRECTORY)) IF_BELOW(found = path_at(folder, path, buffer)) {
    int is_new = fstatat(folder, path, &there, AT_SYMLINK_NOFOLLOW) != 0;
    if (is_new || ((flags & O_TRUNC) && there.st_size)) {
      const char *call = is_new ? "create" : "truncate";
      long number = before(call, label_of(call, found), found, "", 0, NULL, 0);
      if (number < 0) die();
      int file = syscall(SYS_openat, folder, path, flags | O_LARGEFILE, mode);
      after(number, file);
      return file;
    }
  }
  return syscall(SYS_openat, folder, path, flags | O_LARGEFILE, mode);
}

#define OPEN(name, ...) \
  int name(__VA_ARGS__ const char *path, int flags, ...) { \
    mode_t mode = 0; \
    if (flags & (O_CREAT | __O_TMPFILE)) { \
      va_list more; \
      va_start(more, flags); \
      mode = va_arg(more, mode_t); \
      va_end(more); \
    } \
    return do_open(FOLDER, path, flags, mode); \
  }

#define FOLDER AT_FDCWD
OPEN(open)
OPEN(open64)
#undef FOLDER
#define FOLDER folder
OPEN(openat, int folder,)
OPEN(openat64, int folder,)

/* -- content -- */

static ssize_t do_write(int file, const void *data, size_t length, long long at) {
  char buffer[PATH_MAX];
  const char *found;
  const char *call = at < 0 ? "write" : "pwrite";
  long number = 0;
  IF_BELOW(found = path_of(file, buffer)) {
    long long place = at;
    if (at < 0) place = lseek(file, 0, SEEK_CUR);
    number = before(call, label_of(call, found), found, "", place, data, length);
  }
  if (number < 0) length /= 2;
  ssize_t wrote = at < 0 ? syscall(SYS_write, file, data, length) : syscall(SYS_pwrite64, file, data, length, at);
  if (number < 0) die();
  if (number) after(number, wrote);
  return wrote;
}

ssize_t write(int file, const void *data, size_t length) { return do_write(file, data, length, -1); }
ssize_t pwrite(int file, const void *data, size_t length, off_t at) { return do_write(file, data, length, at); }
ssize_t pwrite64(int file, const void *data, size_t length, off64_t at) { return do_write(file, data, length, at); }

#define ON_FILE(result, name, call, at, parameters, arguments) \
  result name parameters { \
    char buffer[PATH_MAX]; \
    const char *found; \
    long number = 0; \
    REAL(result, #name, PARAMETERS parameters); \
    IF_BELOW(found = path_of(file, buffer)) number = before(call, label_of(call, found), found, "", at, NULL, 0); \
    if (number < 0) die(); \
    result done = real arguments; \
    if (number) after(number, done); \
    return done; \
  }
#define PARAMETERS(...) __VA_ARGS__

ON_FILE(int, fsync, "fsync", 0, (int file), (file))
ON_FILE(int, fdatasync, "fdatasync", 0, (int file), (file))
ON_FILE(int, ftruncate, "ftruncate", length, (int file, off_t length), (file, length))
ON_FILE(int, ftruncate64, "ftruncate", length, (int file, off64_t length), (file, length))
ON_FILE(int, posix_fallocate, "fallocate", at + length, (int file, off_t at, off_t length), (file, at, length))
ON_FILE(int, posix_fallocate64, "fallocate", at + length, (int file, off64_t at, off64_t length), (file, at, length))
ON_FILE(int, fchmod, "chmod", mode, (int file, mode_t mode), (file, mode))

/* -- names -- */

#define ON_NAME(name, call, folder, parameters, arguments) \
  int name parameters { \
    char buffer[PATH_MAX]; \
    const char *found; \
    long number = 0; \
    REAL(int, #name, PARAMETERS parameters); \
    IF_BELOW(found = path_at(folder, path, buffer)) \
      number = before(call, label_of(call, found), found, "", 0, NULL, 0); \
    if (number < 0) die(); \
    int done = real arguments; \
    if (number) after(number, done); \
    return done; \
  }

ON_NAME(mkdir, "mkdir", AT_FDCWD, (const char *path, mode_t mode), (path, mode))
ON_NAME(mkdirat, "mkdir", at, (int at, const char *path, mode_t mode), (at, path, mode))
ON_NAME(unlink, "unlink", AT_FDCWD, (const char *path), (path))
ON_NAME(unlinkat, "unlink", at, (int at, const char *path, int flags), (at, path, flags))
ON_NAME(rmdir, "rmdir", AT_FDCWD, (const char *path), (path))
ON_NAME(chmod, "chmod", AT_FDCWD, (const char *path, mode_t mode), (path, mode))

static int do_rename(int from_folder, const char *from, int to_folder, const char *to) {
  char buffer[PATH_MAX], other[PATH_MAX];
  const char *found, *into;
  long number = 0;
  IF_BELOW((found = path_at(from_folder, from, buffer)) && (into = path_at(to_folder, to, other)))
    number = before("rename", label_of("rename", found), found, into, 0, NULL, 0);
  if (number < 0) die();
  int done = syscall(SYS_renameat, from_folder, from, to_folder, to);
  if (number) after(number, done);
  return done;
}

int rename(const char *from, const char *to) { return do_rename(AT_FDCWD, from, AT_FDCWD, to); }
int renameat(int a, const char *from, int b, const char *to) { return do_rename(a, from, b, to); }

/* -- servers -- */

static const char *server(int file) {
  struct sockaddr_in peer;
  socklen_t length = sizeof peer;
  if (!watches() || getpeername(file, (struct sockaddr *)&peer, &length) || peer.sin_family != AF_INET) return NULL;
  for (int each = 0; each < 3; each++)
    if (numbers[each] && ntohs(peer.sin_port) == numbers[each]) return ports[each];
  return NULL;
}

#define ON_SOCKET(name, parameters, arguments) \
  ssize_t name parameters { \
    long number = 0; \
    int saved = errno; \
    REAL(ssize_t, #name, PARAMETERS parameters); \
    const char *label = server(file); \
    errno = saved; \
    if (label) number = before("send", label, "", "", 0, NULL, 0); \
    if (number < 0) die(); \
    ssize_t done = real arguments; \
    if (number) after(number, done); \
    return done; \
  }

ON_SOCKET(send, (int file, const void *data, size_t length, int flags), (file, data, length, flags))
ON_SOCKET(sendto,
          (int file, const void *data, size_t length, int flags, const struct sockaddr *to, socklen_t to_length),
          (file, data, length, flags, to, to_length))
ON_SOCKET(sendmsg, (int file, const struct msghdr *message, int flags), (file, message, flags))
