/* What `run` costs at the least: the cgroups, one clone3 with the namespaces of the bench's
 * configuration, its mounts, devices and hidden paths, pivot_root, exec, wait, and the removal of the
 * cgroups, with each step as cheap as we know it and nothing else: no configuration is read, no path
 * is resolved against a hostile image, no state is kept, and no failure is explained.
 *
 * usage: floor ROOTFS NAME PROGRAM
 *        floor --peak PROGRAM [ARGUMENT ...]   prints the program's peak resident kB; a small parent,
 *                                              because a process begins with the peak of whoever forked it
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <net/if.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST 16

static char groups[MOST][128];
static int tasks[MOST];
static int count, unified = -1;

static void must(int ok, const char *what) {
	if (!ok) {
		fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
		_exit(1);
	}
}

static void put(int directory, const char *file, const char *text) {
	int fd = openat(directory, file, O_WRONLY | O_CLOEXEC);
	must(fd >= 0 && write(fd, text, strlen(text)) > 0, file);
	close(fd);
}

static void make_groups(const char *name) {
	static const char *names[] = {"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio",
		"pids", "systemd", "unified", "."};
	for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
		char *path = groups[count];
		/* The second form is of a host with cgroup v2 alone. */
		if (strcmp(names[i], ".") == 0 && count > 0) break;
		snprintf(path, sizeof groups[0], "/sys/fs/cgroup/%s/cgroup.procs", names[i]);
		if (access(path, F_OK) != 0) continue;
		snprintf(path, sizeof groups[0], "/sys/fs/cgroup/%s/%s", names[i], name);
		must(mkdir(path, 0755) == 0, path);
		int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		must(directory >= 0, path);
		tasks[count] = -1;
		if (strcmp(names[i], "cpuset") == 0) {
			put(directory, "cpuset.cpus", "0");
			put(directory, "cpuset.mems", "0");
		}
		if (strcmp(names[i], "devices") == 0) {
			static const char *allowed[] = {"c *:* m", "b *:* m", "c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm",
				"c 1:8 rwm", "c 1:9 rwm", "c 5:0 rwm", "c 5:2 rwm", "c 136:* rwm"};
			put(directory, "devices.deny", "a");
			for (unsigned j = 0; j < sizeof allowed / sizeof *allowed; j++) put(directory, "devices.allow", allowed[j]);
		}
		if (strcmp(names[i], "unified") == 0 || strcmp(names[i], ".") == 0) {
			unified = directory;
		} else {
			tasks[count] = openat(directory, "tasks", O_WRONLY | O_CLOEXEC);
			must(tasks[count] >= 0, path);
			close(directory);
		}
		count++;
	}
}

static void attach(const char *type, const char *source, const char *target, unsigned long flags, const char *data) {
	must(mount(source, target, type, flags, data) == 0, target);
}

static void inside(const char *root, char *program) {
	for (int i = 0; i < count; i++) {
		must(tasks[i] < 0 || write(tasks[i], "0", 1) == 1, groups[i]);
	}
	setsid();
	syscall(SYS_keyctl, 1 /* KEYCTL_JOIN_SESSION_KEYRING */, NULL);
	int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
	must(ioctl(sock, SIOCSIFFLAGS, &request) == 0, "lo");
	close(sock);
	must(sethostname("bench", 5) == 0, "hostname");
	umask(0);
	attach(NULL, NULL, "/", MS_REC | MS_SLAVE, NULL);
	attach(NULL, root, root, MS_BIND | MS_REC, NULL);
	must(chdir(root) == 0, root);
	attach("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	attach("tmpfs", "tmpfs", "dev", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k");
	mkdir("dev/pts", 0755), mkdir("dev/shm", 0755), mkdir("dev/mqueue", 0755);
	attach("devpts", "devpts", "dev/pts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5");
	attach("tmpfs", "shm", "dev/shm", MS_NOSUID | MS_NOEXEC | MS_NODEV, "mode=1777,size=65536k");
	attach("mqueue", "mqueue", "dev/mqueue", MS_NOSUID | MS_NOEXEC | MS_NODEV, NULL);
	attach("sysfs", "sysfs", "sys", MS_NOSUID | MS_NOEXEC | MS_NODEV | MS_RDONLY, NULL);
	attach("tmpfs", "tmpfs", "sys/fs/cgroup", MS_NOSUID | MS_NOEXEC | MS_NODEV, "mode=755");
	for (int i = 0; i < count; i++) {
		char target[64], *name = strdupa(groups[i]) + strlen("/sys/fs/cgroup/");
		*strchr(name, '/') = 0;
		snprintf(target, sizeof target, "sys/fs/cgroup/%s", name);
		must(mkdir(target, 0755) == 0, target);
		int tree = syscall(SYS_open_tree, AT_FDCWD, groups[i], 1 /* OPEN_TREE_CLONE */ | O_CLOEXEC);
		struct { uint64_t set, clear, propagation, fd; } change = {.set = 0xf /* ro, nosuid, nodev, noexec */};
		must(syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &change, sizeof change) == 0, target);
		must(syscall(SYS_move_mount, tree, "", AT_FDCWD, target, 4 /* F_EMPTY_PATH */) == 0, target);
		close(tree);
	}
	static const struct { const char *path; int major, minor; } nodes[] = {{"dev/null", 1, 3}, {"dev/zero", 1, 5},
		{"dev/full", 1, 7}, {"dev/random", 1, 8}, {"dev/urandom", 1, 9}, {"dev/tty", 5, 0}};
	for (unsigned i = 0; i < sizeof nodes / sizeof *nodes; i++) {
		must(mknod(nodes[i].path, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor)) == 0, nodes[i].path);
	}
	static const char *links[][2] = {{"/proc/self/fd", "dev/fd"}, {"/proc/self/fd/0", "dev/stdin"},
		{"/proc/self/fd/1", "dev/stdout"}, {"/proc/self/fd/2", "dev/stderr"}, {"pts/ptmx", "dev/ptmx"}};
	for (unsigned i = 0; i < sizeof links / sizeof *links; i++) must(symlink(links[i][0], links[i][1]) == 0, links[i][1]);
	static const char *masked[] = {"proc/kcore", "proc/keys", "proc/latency_stats", "proc/timer_list",
		"proc/sched_debug"};
	for (unsigned i = 0; i < sizeof masked / sizeof *masked; i++) {
		must(mount("/dev/null", masked[i], NULL, MS_BIND, NULL) == 0 || errno == ENOENT, masked[i]);
	}
	static const char *hidden[] = {"proc/acpi", "proc/scsi", "sys/firmware"};
	for (unsigned i = 0; i < sizeof hidden / sizeof *hidden; i++) {
		must(mount("tmpfs", hidden[i], "tmpfs", MS_RDONLY, "size=0k,nr_inodes=2,mode=555") == 0 || errno == ENOENT, hidden[i]);
	}
	static const char *readonly[] = {"proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"};
	for (unsigned i = 0; i < sizeof readonly / sizeof *readonly; i++) {
		if (mount(readonly[i], readonly[i], NULL, MS_BIND, NULL) != 0) {
			must(errno == ENOENT, readonly[i]);
			continue;
		}
		attach(NULL, NULL, readonly[i], MS_REMOUNT | MS_BIND | MS_RDONLY, NULL);
	}
	must(chdir(root) == 0 && syscall(SYS_pivot_root, ".", ".") == 0 && umount2(".", MNT_DETACH) == 0 && chdir("/") == 0, "pivot_root");
	struct rlimit limit = {1024, 1024};
	must(setrlimit(RLIMIT_NOFILE, &limit) == 0, "rlimit");
	const uint64_t kept = 1 << CAP_AUDIT_WRITE % 32 | 1 << CAP_KILL | 1 << CAP_NET_BIND_SERVICE;
	for (int i = 0; i <= 40; i++) {
		if (!(kept >> i & 1)) prctl(PR_CAPBSET_DROP, i, 0, 0, 0);
	}
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[2] = {{kept, kept, kept}, {0, 0, 0}};
	must(syscall(SYS_capset, &header, data) == 0, "capset");
	must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "no_new_privs");
	char *const arguments[] = {program, NULL}, *const environment[] = {"PATH=/bin", NULL};
	execve(program, arguments, environment);
	must(0, program);
}

static int peak(char **words) {
	pid_t pid = fork();
	must(pid >= 0, "fork");
	if (pid == 0) {
		execv(*words, words);
		must(0, *words);
	}
	int status;
	struct rusage usage;
	must(wait4(pid, &status, 0, &usage) == pid, "wait4");
	printf("%ld\n", usage.ru_maxrss);
	return status != 0;
}

int main(int argc, char **argv) {
	if (argc > 2 && strcmp(argv[1], "--peak") == 0) return peak(argv + 2);
	must(argc == 4, "usage: floor ROOTFS NAME PROGRAM");
	make_groups(argv[2]);
	struct clone_args args = {
		.flags = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET,
		.exit_signal = SIGCHLD,
	};
	if (unified >= 0) {
		args.flags |= CLONE_INTO_CGROUP;
		args.cgroup = unified;
	}
	long pid = syscall(SYS_clone3, &args, sizeof args);
	must(pid >= 0, "clone3");
	if (pid == 0) inside(argv[1], argv[3]);
	int status;
	must(waitpid(pid, &status, 0) == pid, "waitpid");
	for (int i = 0; i < count; i++) must(rmdir(groups[i]) == 0, groups[i]);
	return WEXITSTATUS(status);
}
