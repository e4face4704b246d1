/* A file system that cannot reserve room: posix_fallocate gives the error of the environment's NO_FALLOCATE.

   Loaded with LD_PRELOAD. glibc writes in its stead on EOPNOTSUPP; musl does not, and nobody does on EINVAL. */
#include <stdlib.h>
#include <sys/types.h>

int posix_fallocate(int file, off_t at, off_t length) { return atoi(getenv("NO_FALLOCATE")); }
int posix_fallocate64(int file, off_t at, off_t length) { return atoi(getenv("NO_FALLOCATE")); }
