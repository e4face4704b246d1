/* A file system that can do less than others, loaded with LD_PRELOAD: calls give the error of the environment.

   NO_FALLOCATE: posix_fallocate. glibc writes in its stead on EOPNOTSUPP; musl does not, and nobody on EINVAL.
   NO_CHMOD: fchmod, as on shares whose permissions are set by the mount. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static int wanted(const char *name) {
  const char *value = getenv(name);
  return value ? atoi(value) : 0;
}

int posix_fallocate(int file, off_t at, off_t length) { return wanted("NO_FALLOCATE"); }
int posix_fallocate64(int file, off64_t at, off64_t length) { return wanted("NO_FALLOCATE"); }

int fchmod(int file, mode_t mode) {
  if (!wanted("NO_CHMOD")) return syscall(SYS_fchmod, file, mode);
  errno = wanted("NO_CHMOD");
  return -1;
}
