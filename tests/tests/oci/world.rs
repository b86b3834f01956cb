//! A world of a test's own for daemons: the namespaces of [`TestHost`], and cgroups in which the test
//! is the root.
//!
//! Container engines leave cgroups (`/docker`, `/default`, `/libpod_parent`), files below `/run` and
//! locks in `/dev/shm`. Here all of these are the test's: a cgroup namespace below a cgroup that was
//! made for it in every hierarchy, and empty file systems over the rest. Dropping the world ends every
//! process in it, and removes what is left.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, openat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;
use tests::host::TestHost;

/// Directories of the host that engines write to, wherever they are told that their own are.
const COVERED: [&str; 5] =
    ["/run", "/dev/shm", "/var/lib/containers", "/var/lib/cni", "/etc/cni/net.d"];

/// See the module's documentation.
pub(super) struct World {
    /// Dropped first: its processes are in the cgroups.
    pub(super) host: TestHost,
    _cgroups: Cgroups,
    /// Pid namespaces: the world's, and the one that the test's threads are in.
    inside: File,
    outside: File,
}

impl World {
    /// A world in which nothing runs.
    pub(super) fn new() -> Self {
        let mut cgroups = Cgroups::find();
        let host = TestHost::empty();
        // Users that are mapped have to come by.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(host.path(""), open).unwrap();
        cgroups.enter();
        for directory in COVERED.map(Path::new).iter().filter(|path| path.is_dir()) {
            let none = None::<&str>;
            mount(Some("tmpfs"), *directory, Some("tmpfs"), MsFlags::empty(), none).unwrap();
        }
        let namespace = |name: &str| {
            let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
            let path = format!("thread-self/ns/{name}");
            File::from(openat(&host.processes, path.as_str(), flags, Mode::empty()).unwrap())
        };
        let (inside, outside) = (namespace("pid_for_children"), namespace("pid"));
        let world = Self { host, _cgroups: cgroups, inside, outside };
        world.give_ids();
        world
    }

    /// Ranges of ids for the names that engines look them up by.
    fn give_ids(&self) {
        let ranges = self.host.path("ranges");
        let lines =
            ["nobody", "nogroup", "containers"].map(|name| format!("{name}:300000:65536\n"));
        fs::write(&ranges, lines.concat()).unwrap();
        for file in ["/etc/subuid", "/etc/subgid"] {
            let none = None::<&str>;
            mount(Some(&ranges), file, none, MsFlags::MS_BIND, none).unwrap();
        }
    }

    /// Runs work on several threads, whose children are the world's. No thread can be made while the
    /// children are to be elsewhere.
    pub(super) fn beside_each_other(&self, threads: usize, work: impl Fn() + Sync) {
        let children = |namespace: &File| setns(namespace, CloneFlags::CLONE_NEWPID).unwrap();
        children(&self.outside);
        let panicked = std::thread::scope(|scope| {
            let start = |_| {
                scope.spawn(|| {
                    children(&self.inside);
                    work();
                })
            };
            let threads: Vec<_> = (0..threads).map(start).collect();
            threads.into_iter().filter_map(|thread| thread.join().err()).count()
        });
        children(&self.inside);
        assert_eq!(panicked, 0, "threads that panicked");
    }

    /// The value of a file of the cgroup that a process of this world is in.
    pub(super) fn cgroup_file(&self, pid: u32, file: &str) -> String {
        let controller = file.split('.').next().unwrap_or_default();
        self.host.sh(&format!(
            "group=$(sed -nE 's/^[0-9]+:([^:]*,)?{controller}(,[^:]*)?://p' /proc/{pid}/cgroup); \
             cat /sys/fs/cgroup/{controller}$group/{file}"
        ))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Else the directory cannot be deleted, or worse, is with what is mounted there.
        let root = self.host.path("");
        self.host.sh(&format!(
            "grep -oE ' {root}[^ ]*' /proc/self/mountinfo | sort -r | xargs -r umount -l",
            root = root.display()
        ));
    }
}

/// A hierarchy as the host has it mounted.
struct Hierarchy {
    mount: PathBuf,
    kind: String,
    /// Controllers or name, as a mount takes them; none for version 2.
    options: String,
    /// Where the test was before.
    origin: PathBuf,
    /// Lets the test back in, from wherever the mount is no longer to be seen.
    door: File,
}

/// A cgroup of the test's own in every hierarchy.
struct Cgroups {
    hierarchies: Vec<Hierarchy>,
    host: File,
    name: String,
}

impl Cgroups {
    /// Looks where the test is; `/proc` and the mounts must still be the host's.
    fn find() -> Self {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let row = |line: &str| {
            let (place, source) = line.split_once(" - ")?;
            let mount = PathBuf::from(place.split(' ').nth(4)?);
            let mut source = source.split(' ');
            let kind = source.next().filter(|kind| kind.starts_with("cgroup"))?.to_owned();
            let ours = |option: &&str| !matches!(*option, "rw" | "ro" | "xattr" | "clone_children");
            let options: Vec<&str> = match kind.as_str() {
                "cgroup2" => Vec::new(),
                _ => source.nth(1)?.split(',').filter(ours).collect(),
            };
            let here = own.lines().find_map(|line| {
                let mut fields = line.splitn(3, ':').skip(1);
                let controllers: Vec<&str> = fields.next()?.split(',').collect();
                let found = match options.first() {
                    Some(first) => controllers.contains(first),
                    None => controllers == [""],
                };
                found.then(|| fields.next().map(str::to_owned)).flatten()
            })?;
            let origin = mount.join(here.trim_start_matches('/'));
            let door = File::options().write(true).open(origin.join("cgroup.procs")).ok()?;
            let named = options.iter().any(|option| option.starts_with("name="));
            let options = format!("{}{}", if named { "none," } else { "" }, options.join(","));
            Some(Hierarchy { mount, kind, options, origin, door })
        };
        let hierarchies: Vec<Hierarchy> = mounts.lines().filter_map(row).collect();
        assert!(
            hierarchies.iter().any(|hierarchy| hierarchy.kind == "cgroup"),
            "the engines are tested on cgroup version 1 and hybrid hosts"
        );
        let host = File::open("/proc/thread-self/ns/mnt").unwrap();
        let name = format!("lighter-oci-{}", std::process::id());
        Self { hierarchies, host, name }
    }

    /// Moves the test into its cgroups, and makes them the roots of what it sees.
    fn enter(&mut self) {
        for Hierarchy { origin, .. } in &self.hierarchies {
            let group = origin.join(&self.name);
            fs::create_dir(&group).unwrap();
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let Ok(value) = fs::read_to_string(origin.join(file)) {
                    fs::write(group.join(file), value).unwrap();
                }
            }
            fs::write(group.join("cgroup.procs"), "0").unwrap();
        }
        unshare(CloneFlags::CLONE_NEWCGROUP).unwrap();
        for Hierarchy { mount: point, kind, options, .. } in &self.hierarchies {
            umount2(point, MntFlags::MNT_DETACH).unwrap();
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            mount(Some("cgroup"), point, Some(kind.as_str()), flags, Some(options.as_str()))
                .unwrap();
        }
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for hierarchy in &mut self.hierarchies {
            let _ = hierarchy.door.write_all(b"0");
        }
        if setns(&self.host, CloneFlags::CLONE_NEWNS).is_ok() {
            for hierarchy in &self.hierarchies {
                tests::host::remove_cgroup(&hierarchy.origin.join(&self.name));
            }
        }
    }
}
