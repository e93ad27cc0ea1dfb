/* Preloaded into Xen's xl, so that `xl -N create` reads a configuration where no hypervisor runs: it wants one, but a
 * dry run asks it for nothing that matters. Who is asked succeeds and tells nothing (zeros). xl's parser, and its
 * libraries that say what a domain is, are untouched. */
#include <string.h>

static char handle;

void *xc_interface_open(void *logger, void *dombuild_logger, unsigned flags) { return &handle; }
int xc_interface_close(void *xch) { return 0; }
void *xs_open(unsigned long flags) { return &handle; }
void *xs_daemon_open(void) { return &handle; }
void xs_close(void *xsh) {}
void xs_daemon_close(void *xsh) {}
int xc_get_max_cpus(void *xch) { return 4; }
int xc_get_online_cpus(void *xch) { return 4; }
int xc_get_max_nodes(void *xch) { return 1; }
int xc_version(void *xch, int cmd, void *arg) { return cmd ? 0 : (4 << 16) | 17; }
int xc_physinfo(void *xch, void *info) { memset(info, 0, 16); return 0; }
int xc_maximum_ram_page(void *xch, unsigned long *max) { *max = 1 << 20; return 0; }
long xc_sharing_freed_pages(void *xch) { return 0; }
long xc_sharing_used_frames(void *xch) { return 0; }
