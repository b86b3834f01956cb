//! What `run` is asked for, and what the container then shows: a table that every caller goes
//! through.

use std::fs;

use anyhow::{Result, bail, ensure};
use serde_json::json;

use super::caller::{Caller, Kind, Outcome};

/// What a text must be; `{dir}` and the like stand for what the test alone knows.
#[derive(Clone, Copy)]
enum Text {
    Any,
    Is(&'static str),
    Has(&'static str),
}

/// A container, and what must come of it.
#[derive(Clone, Copy)]
pub(super) struct Case {
    pub(super) name: &'static str,
    docker: Option<&'static str>,
    podman: Option<&'static str>,
    ctr: Option<&'static str>,
    command: &'static [&'static str],
    code: i32,
    /// Where it is another with `ctr`, which knows no codes of its own.
    ctr_code: Option<i32>,
    out: Text,
    err: Text,
}

/// A shell script under these options of Docker and Podman, which must succeed and print this.
const fn prints(
    name: &'static str,
    options: &'static str,
    command: &'static [&'static str],
    out: &'static str,
) -> Case {
    Case {
        name,
        docker: Some(options),
        podman: Some(options),
        ctr: None,
        command,
        code: 0,
        ctr_code: None,
        out: Text::Is(out),
        err: Text::Any,
    }
}

impl Case {
    const fn ctr(mut self, options: &'static str) -> Self {
        self.ctr = Some(options);
        self
    }

    const fn podman(mut self, options: &'static str) -> Self {
        self.podman = Some(options);
        self
    }

    const fn not_podman(mut self) -> Self {
        self.podman = None;
        self
    }

    const fn not_docker(mut self) -> Self {
        self.docker = None;
        self
    }

    const fn only_ctr(mut self, options: &'static str) -> Self {
        self.docker = None;
        self.podman = None;
        self.ctr(options)
    }

    const fn fails(mut self, code: i32, out: Text, err: Text) -> Self {
        self.code = code;
        self.out = out;
        self.err = err;
        self
    }

    const fn ctr_code(mut self, code: i32) -> Self {
        self.ctr_code = Some(code);
        self
    }

    /// The options for a caller, if it has what the case asks for.
    fn options(&self, kind: Kind) -> Option<&'static str> {
        match kind {
            Kind::Containerd => self.ctr,
            Kind::Podman => self.podman,
            Kind::Docker => self.docker,
        }
    }
}

macro_rules! sh {
    ($script:literal) => {
        &["sh", "-c", $script]
    };
}

/// The table.
pub(super) const CASES: &[Case] = &[
    prints("exit code and both streams", "", sh!("echo out; echo err >&2; exit 3"), "out\n")
        .ctr("")
        .fails(3, Text::Is("out\n"), Text::Has("err")),
    prints("program that does not exist", "", &["no-such-program"], "")
        .ctr("")
        .fails(127, Text::Any, Text::Has("executable file not found in $PATH"))
        .ctr_code(1),
    prints("path that does not exist", "", &["/no/such"], "")
        .ctr("")
        .fails(127, Text::Any, Text::Has("no such file or directory"))
        .ctr_code(1),
    prints("program that is not executable", "", &["/bin/not-executable"], "")
        .ctr("")
        .fails(126, Text::Any, Text::Has("permission denied"))
        .ctr_code(1),
    prints("program that is a directory", "", &["/etc"], "")
        .ctr("")
        .fails(126, Text::Any, Text::Any)
        .ctr_code(1),
    prints("working directory", "-w /tmp", &["pwd"], "/tmp\n").ctr("--cwd /tmp"),
    prints("working directory, made if missing", "-w /made/deep", &["pwd"], "/made/deep\n")
        .not_podman()
        .ctr("--cwd /made/deep"),
    prints("domain name", "--domainname example.org", sh!("cat /proc/sys/kernel/domainname"), "example.org\n")
        .not_podman(),
    prints("tmpfs with the image's files", "--mount type=tmpfs,dst=/etc,tmpcopyup", sh!("grep -c . /etc/passwd; grep -c 'tmpfs /etc ' /proc/mounts"), "2\n1\n")
        .not_docker(),
    prints("paths not masked", "--security-opt systempaths=unconfined", sh!("grep -cE ' /proc/(sys|keys|bus) ' /proc/mounts"), "")
        .podman("--security-opt unmask=ALL")
        .fails(1, Text::Is("0\n"), Text::Any),
    prints("environment", "-e A=b=c -e EMPTY=", sh!("echo \"$A,${EMPTY-unset}\""), "b=c,\n")
        .ctr("--env A=b=c --env EMPTY="),
    prints("user by number", "--user 7:8", sh!("id -u; id -g"), "7\n8\n"),
    prints("user by name", "--user web", sh!("id -un; id -G; echo $HOME"), "web\n1000 77\n/home\n"),
    prints("further groups", "--user 7:8 --group-add 99", sh!("id -G"), "8 99\n"),
    prints("host name", "--hostname box.example", &["hostname"], "box.example\n"),
    prints("read-only root", "--read-only", sh!("touch /x; echo $?; : >/dev/shm/x && echo w"), "1\nw\n")
        .ctr("--read-only"),
    prints(
        "tmpfs: size and mode",
        "--tmpfs /t:size=64k,mode=710",
        sh!("stat -c %a /t; head -c 70000 /dev/zero >/t/x 2>/dev/null; stat -c %s /t/x"),
        "710\n65536\n",
    )
    .ctr("--mount type=tmpfs,src=tmpfs,dst=/t,options=size=64k:mode=710"),
    prints("volume", "-v {dir}/volume:/v", sh!("cat /v/in"), "from the host\n")
        .ctr("--mount type=bind,src={dir}/volume,dst=/v,options=rbind:rw"),
    prints("read-only volume", "-v {dir}/volume:/v:ro", sh!("touch /v/x; echo $?"), "1\n")
        .ctr("--mount type=bind,src={dir}/volume,dst=/v,options=rbind:ro"),
    prints("volume of one file", "-v {dir}/volume/in:/etc/in:ro", sh!("cat /etc/in"), "from the host\n")
        .ctr("--mount type=bind,src={dir}/volume/in,dst=/etc/in,options=bind:ro"),
    prints(
        "anonymous volume gets the image's files",
        "-v /etc",
        sh!("grep -c . /etc/passwd; grep -c ' /etc ' /proc/mounts"),
        "2\n1\n",
    ),
    // A node is made with the log's number: opening it for writing asks nothing but the cgroup.
    prints("device", "--device {dir}/log:/dev/log0", sh!(": >/dev/log0 && stat -c %t:%T /dev/log0"), "1:b\n"),
    prints("device, by its own path", "", sh!(": >{dir}/log && stat -c %t:%T {dir}/log"), "1:b\n")
        .only_ctr("--device {dir}/log"),
    prints(
        "device without the right to write",
        "--device {dir}/log:/dev/log0:r",
        sh!(": >/dev/log0"),
        "",
    )
    .fails(1, Text::Any, Text::Has("Operation not permitted")),
    prints("device of one's own making", "--cap-add MKNOD", sh!("mknod /tmp/n c 1 11 && : >/tmp/n"), "")
        .ctr("--cap-add CAP_MKNOD")
        .fails(1, Text::Any, Text::Has("Operation not permitted")),
    prints("capabilities: none", "--cap-drop ALL", sh!("grep Cap /proc/self/status | cut -f2 | uniq"), "0000000000000000\n"),
    prints(
        "capabilities: two",
        "--cap-drop ALL --cap-add NET_ADMIN --cap-add CHOWN",
        sh!("grep -E 'Cap(Prm|Eff|Bnd)' /proc/self/status | cut -f2 | uniq"),
        "0000000000001001\n",
    ),
    prints(
        "capabilities: one dropped",
        "--cap-drop KILL",
        sh!("kill -0 1 && grep -E 'Cap(Prm|Eff|Bnd)' /proc/self/status | cut -f2 | uniq | wc -l"),
        "1\n",
    )
    .ctr("--cap-drop CAP_KILL"),
    prints("capabilities: none inheritable", "", sh!("grep -E 'Cap(Inh|Amb)' /proc/self/status | cut -f2 | uniq"), "0000000000000000\n")
        .ctr(""),
    prints("new privileges by default", "", sh!("grep NoNew /proc/self/status | cut -f2"), "0\n")
        .ctr("--allow-new-privs"),
    prints("no new privileges", "--security-opt no-new-privileges", sh!("grep NoNew /proc/self/status | cut -f2"), "1\n")
        .ctr(""),
    prints("default seccomp profile", "", sh!("grep 'Seccomp:' /proc/self/status | cut -f2; unshare -m true 2>&1"), "")
        .ctr("--seccomp")
        .fails(1, Text::Has("2\n"), Text::Any),
    prints("own seccomp profile", "--security-opt seccomp={dir}/seccomp.json", sh!("mkdir /tmp/x; echo $?"), "1\n")
        .ctr("--seccomp --seccomp-profile {dir}/seccomp.json"),
    prints("no seccomp profile", "--security-opt seccomp=unconfined", sh!("grep 'Seccomp:' /proc/self/status | cut -f2"), "0\n")
        .ctr(""),
    prints(
        "masked and read-only paths",
        "",
        sh!("wc -c </proc/timer_list; ls /sys/firmware | wc -l; echo 1 >/proc/sys/kernel/panic"),
        "",
    )
    .ctr("")
    .fails(1, Text::Is("0\n0\n"), Text::Has("Read-only file system")),
    prints("no network but loopback", "--network none", sh!("ls /sys/class/net; ping -c1 -w2 127.0.0.1 >/dev/null && echo up"), "lo\nup\n"),
    prints("network of the host", "--network host", sh!("readlink /proc/self/ns/net"), "{net}\n")
        .ctr("--net-host"),
    prints("processes of the host", "--pid host", sh!("readlink /proc/self/ns/pid"), "{pid}\n")
        .ctr("--with-ns pid:/proc/1/ns/pid"),
    prints("IPC of the host", "--ipc host", sh!("readlink /proc/self/ns/ipc"), "{ipc}\n")
        .ctr("--with-ns ipc:/proc/1/ns/ipc"),
    prints("name of the host", "--uts host", sh!("readlink /proc/self/ns/uts"), "{uts}\n")
        .ctr("--with-ns uts:/proc/1/ns/uts"),
    prints("cgroup namespace", "--cgroupns private", sh!("grep -vc ':/$' /proc/self/cgroup"), "0\n")
        .fails(1, Text::Is("0\n"), Text::Any),
    prints("ulimits", "--ulimit nofile=100:200 --ulimit core=0", sh!("ulimit -Sn; ulimit -Hn; ulimit -c"), "100\n200\n0\n")
        // It would raise this one above what the host lets it.
        .podman("--ulimit nofile=100:200 --ulimit core=0 --ulimit nproc=100:100"),
    prints("sysctl", "--sysctl net.ipv4.ip_unprivileged_port_start=81", sh!("cat /proc/sys/net/ipv4/ip_unprivileged_port_start"), "81\n"),
    prints("size of /dev/shm", "--shm-size 1m", sh!("df /dev/shm | awk 'END {print $2}'"), "1024\n"),
    prints("an init", "--init", sh!("tr '\\0' ' ' </proc/1/cmdline | cut -d' ' -f1; cat /proc/$$/comm"), "")
        .fails(0, Text::Has("init\n"), Text::Any),
    prints("OOM score", "--oom-score-adj 500", sh!("cat /proc/self/oom_score_adj"), "500\n"),
    prints("umask", "--umask 0077", sh!("umask"), "0077\n").not_docker(),
    prints("tmpfs that runs nothing", "--tmpfs /t:noexec", sh!("cp /bin/busybox /t/echo && /t/echo"), "")
        .ctr("--mount type=tmpfs,src=tmpfs,dst=/t,options=noexec")
        .fails(126, Text::Any, Text::Has("Permission denied")),
    prints("further group by name", "--user 7:8 --group-add extra", sh!("id -G"), "8 77\n"),
    prints("namespaces by path", "--network ns:/proc/1/ns/net --ipc ns:/proc/1/ns/ipc", sh!("for n in net ipc; do readlink /proc/self/ns/$n; done"), "{net}\n{ipc}\n")
        .not_docker()
        .ctr("--with-ns network:/proc/1/ns/net --with-ns ipc:/proc/1/ns/ipc"),
    prints("CPU quota and period", "--cpu-period 50000 --cpu-quota 20000", sh!("cd /sys/fs/cgroup/cpu; cat cpu.cfs_period_us cpu.cfs_quota_us"), "50000\n20000\n"),
    prints("swappiness", "--memory-swappiness 11", sh!("cat /sys/fs/cgroup/memory/memory.swappiness"), "11\n"),
    prints("OOM killer off", "--memory 64m --oom-kill-disable", sh!("head -n1 /sys/fs/cgroup/memory/memory.oom_control"), "oom_kill_disable 1\n"),
    prints("names of hosts", "--add-host db:10.1.2.3", sh!("grep db /etc/hosts | tr '\\t' ' '"), "10.1.2.3 db\n"),
    prints("number of processes", "--pids-limit 6", sh!("for i in 1 2 3 4 5 6 7; do sleep 1 & done"), "")
        .fails(2, Text::Any, Text::Has("fork")),
    prints("limits as the container sees them", "--memory 64m", sh!("cat /sys/fs/cgroup/memory/memory.limit_in_bytes; : >/sys/fs/cgroup/memory/x"), "")
        .fails(1, Text::Is("67108864\n"), Text::Has("Read-only file system")),
    prints("users mapped", "--uidmap 0:100000:5000 --gidmap 0:200000:5000", sh!("awk '{print $1, $2, $3}' /proc/self/uid_map /proc/self/gid_map; id -u"), "0 100000 5000\n0 200000 5000\n0\n")
        .not_docker()
        .ctr("--uidmap 0:100000:5000 --gidmap 0:200000:5000"),
    prints("users mapped: files, devices and mounts", "--uidmap 0:100000:5000 --gidmap 0:200000:5000 --user 7:8", sh!("touch /tmp/x && stat -c %u:%g /tmp/x && : >/dev/null && cat /proc/sys/kernel/ostype"), "7:8\nLinux\n")
        .not_docker(),
    prints("users mapped: no power outside", "--uidmap 0:300000:5000 --gidmap 0:400000:5000 -v {dir}/volume:/v", sh!("touch /v/mine"), "")
        .not_docker()
        .ctr("--uidmap 0:300000:5000 --gidmap 0:400000:5000 --mount type=bind,src={dir}/volume,dst=/v,options=rbind:rw")
        .fails(1, Text::Any, Text::Has("Permission denied")),
    prints("users mapped, chosen by the engine", "--userns auto:size=500", sh!("awk '{print $1, $3}' /proc/self/uid_map"), "0 500\n")
        .not_docker(),
    prints("root file system that stays in its mount", "", sh!("ls -d /bin"), "/bin\n")
        .only_ctr("--no-pivot"),
];

/// For Docker with a user namespace for every container.
pub(super) const REMAPPED: &[Case] = &[
    prints(
        "users mapped",
        "",
        sh!("awk '{print $1, $2, $3}' /proc/self/uid_map /proc/self/gid_map; id -u"),
        "0 300000 65536\n0 300000 65536\n0\n",
    ),
    // A node is bound from the host, by the name that it has in the container.
    prints("device", "--device {dir}/log", sh!(": >{dir}/log && stat -c %t:%T {dir}/log"), "1:b\n"),
    prints("users mapped: no power outside", "-v {dir}/volume:/v", sh!("touch /v/mine"), "").fails(
        1,
        Text::Any,
        Text::Has("Permission denied"),
    ),
    prints(
        "users mapped: not this container's",
        "--userns host",
        sh!("awk '{print $1, $2}' /proc/self/uid_map"),
        "0 0\n",
    ),
];

/// Names of the table's cases that are worth running there as well.
pub(super) const AS_WELL_REMAPPED: &[&str] = &[
    "exit code and both streams",
    "program that does not exist",
    "program that is not executable",
    "user by name",
    "read-only root",
    "tmpfs: size and mode",
    "volume",
    "read-only volume",
    "capabilities: two",
    "no new privileges",
    "default seccomp profile",
    "masked and read-only paths",
    "no network but loopback",
    "sysctl",
    "an init",
];

/// Makes what the table's cases find on the host.
pub(super) fn furnish(caller: &Caller) {
    let volume = caller.path("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("in"), "from the host\n").unwrap();
    caller.world.host.sh(&format!("mknod -m 666 {} c 1 11", caller.path("log").display()));
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
    });
    fs::write(caller.path("seccomp.json"), profile.to_string()).unwrap();
}

/// Runs a case; none if the caller has no such thing.
pub(super) fn run(caller: &Caller, case: &Case) -> Option<Result<()>> {
    let options = case.options(caller.kind)?;
    let fill = |text: &str| fill(caller, text);
    let command: Vec<String> = case.command.iter().map(|word| fill(word)).collect();
    let outcome = caller.run(options, &super::caller::strs(&command));
    let code = match caller.kind {
        Kind::Containerd => case.ctr_code.unwrap_or(case.code),
        _ => case.code,
    };
    Some(judge(&outcome, code, [(case.out, &outcome.out), (case.err, &outcome.err)], fill))
}

fn judge(
    outcome: &Outcome,
    code: i32,
    texts: [(Text, &String); 2],
    fill: impl Fn(&str) -> String,
) -> Result<()> {
    ensure!(outcome.code == code, "not {code}: {outcome:?}");
    for (expected, text) in texts {
        match expected {
            Text::Any => {}
            Text::Is(expected) if *text == fill(expected) => {}
            Text::Has(expected) if text.contains(&fill(expected)) => {}
            Text::Is(expected) => bail!("not {expected:?}: {outcome:?}"),
            Text::Has(expected) => bail!("no {expected:?}: {outcome:?}"),
        }
    }
    Ok(())
}

/// Fills in the test's directory and the namespaces of its world.
fn fill(caller: &Caller, text: &str) -> String {
    let mut text =
        text.replace("{dir}", caller.path("").display().to_string().trim_end_matches('/'));
    for kind in ["net", "pid", "ipc", "uts"] {
        let place = format!("{{{kind}}}");
        if text.contains(&place) {
            let own = caller.world.host.sh(&format!("readlink /proc/self/ns/{kind}"));
            text = text.replace(&place, &own);
        }
    }
    text
}
