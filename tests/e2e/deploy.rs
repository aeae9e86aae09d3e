//! trust/deploy: each way applied to a scratch root by the tool that it is made for.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use mcpfs_tests::binaries::bin;
use mcpfs_tests::command::{Ran, Run};
use mcpfs_tests::quick::Quick;
use mcpfs_tests::scratch::{self, is_root, need};
use mcpfs_tests::suite::Suite;

pub(crate) fn register(suite: &mut Suite) {
    suite.plain("deploy::a_debian_package", a_debian_package);
    suite.plain("deploy::an_ansible_role", an_ansible_role);
    if is_root() {
        // cloud-init writes to /etc; a test may only in a mount namespace of its own.
        suite.plain("deploy::cloud_init_user_data", cloud_init_user_data);
    }
}

fn deploy(file: &str) -> PathBuf {
    scratch::repository().join("trust/deploy").join(file)
}

/// A trust root, and the same one a version later.
fn roots() -> (Quick, PathBuf, PathBuf) {
    let quick = Quick::new();
    let next = quick.path("next.json");
    let edit =
        quick.signer().args(["trust", "edit"]).arg(quick.trust()).args(["--add-head-key", "demo:spare", "--out"]);
    edit.arg(&next).ok();
    let (first, next) = (quick.trust(), next);
    (quick, first, next)
}

/// As mcpfs demands it, and the very bytes.
fn deployed(file: &Path, expected: &Path) {
    assert_eq!(std::fs::read(file).unwrap(), std::fs::read(expected).unwrap());
    for path in [file, file.parent().unwrap()] {
        let found = path.metadata().unwrap();
        assert_eq!(
            (found.permissions().mode() & 0o022, found.uid()),
            (0, rustix::process::getuid().as_raw()),
            "{path:?}"
        );
    }
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o644);
    Run::new(bin("mcpfs-signer")).args(["trust", "show"]).arg(file).ok();
}

fn a_debian_package() {
    let (quick, first, next) = roots();
    let out = quick.path("out");
    let build = |trust: &Path, umask: &str| {
        Run::new(deploy("debian/build")).arg(trust).arg(&out).umask(umask).ok();
    };
    build(&first, "077");
    let package = out.join("mcpfs-trust-demo-test_1_all.deb");
    let bytes = std::fs::read(&package).unwrap();
    build(&first, "022");
    assert!(std::fs::read(&package).unwrap() == bytes, "the same root gives the same package");
    build(&next, "022");

    let root = quick.path("root");
    for folder in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    std::fs::write(root.join("var/lib/dpkg/status"), "").unwrap();
    let dpkg = |args: &[&str]| {
        let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
        let run = Run::new(need("dpkg", "dpkg")).env("PATH", path).arg(format!("--root={}", root.display()));
        run.args(["--force-not-root", "--log=/dev/null"]).args(args).ok()
    };
    let install = |version: u32| {
        let file = out.join(format!("mcpfs-trust-demo-test_{version}_all.deb"));
        dpkg(&["--install", file.to_str().unwrap()]);
    };
    let file = root.join("etc/mcpfs/trust.json");
    install(1);
    deployed(&file, &first);
    // Not even one that somebody edited is kept: no question, and no trust.json.dpkg-dist.
    std::fs::write(&file, "{}").unwrap();
    install(2);
    deployed(&file, &next);
    let names: Vec<_> = std::fs::read_dir(root.join("etc/mcpfs")).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert_eq!(names, ["trust.json"]);
    dpkg(&["--remove", "mcpfs-trust-demo-test"]);
    assert!(!file.exists());
    // What is no trust root becomes no package.
    let other = quick.path("other.json");
    std::fs::write(&other, "{\"schema\": \"x\"}").unwrap();
    let ran = Run::new(deploy("debian/build")).arg(&other).arg(quick.path("none")).run();
    assert!(ran.code != 0 && ran.stderr.contains("is no trust root"), "{ran}");
    assert!(!quick.path("none").exists());
}

fn an_ansible_role() {
    let (quick, first, next) = roots();
    let dest = quick.path("root/etc/mcpfs/trust.json");
    let book = quick.path("book.yml");
    let (user, group) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    std::fs::write(&book, "- hosts: all\n  gather_facts: false\n  roles: [mcpfs_trust]\n").unwrap();
    let apply = |trust: &Path| -> Ran {
        Run::new(need("ansible-playbook", "ansible-core"))
            .args(["--inventory", "localhost,", "--connection", "local"])
            .arg("--extra-vars")
            .arg(format!(
                "mcpfs_trust_file={} mcpfs_trust_dest={} mcpfs_trust_owner={user} mcpfs_trust_group={group} \
                 ansible_python_interpreter=/usr/bin/python3",
                trust.display(),
                dest.display()
            ))
            .arg(&book)
            .env("ANSIBLE_ROLES_PATH", deploy("ansible/roles"))
            .env("ANSIBLE_LOCAL_TEMP", quick.path("ansible"))
            .env("ANSIBLE_REMOTE_TEMP", quick.path("ansible"))
            .env("ANSIBLE_NOCOLOR", "1")
            .env("HOME", quick.path("home"))
            .env("LC_ALL", "C.UTF-8")
            .dir(&quick.path("artefacts"))
            .run()
    };
    let changed = |ran: &Ran, expected: &str| {
        assert!(ran.code == 0 && ran.stdout.contains(expected) && ran.stdout.contains("failed=0"), "{ran}");
    };
    changed(&apply(&first), "changed=2");
    deployed(&dest, &first);
    changed(&apply(&first), "changed=0");
    changed(&apply(&next), "changed=1");
    deployed(&dest, &next);
    // Back is no way, nor is another one of the same version, nor something else.
    let other = quick.path("other.json");
    let text = std::fs::read_to_string(&next).unwrap().replace("head 1", "another comment");
    std::fs::write(&other, text).unwrap();
    let page = quick.path("page.json");
    std::fs::write(&page, "{\"schema\": \"x\", \"version\": 9}").unwrap();
    for (bad, why) in
        [(&first, "must have a higher version"), (&other, "must have a higher version"), (&page, "is no trust root")]
    {
        let ran = apply(bad);
        assert!(ran.code != 0 && ran.stdout.contains(why), "{ran}");
    }
    deployed(&dest, &next);
}

/// Unpacked and not installed: installed it would act at this machine's next boot.
fn cloud_init() -> tempfile::TempDir {
    let dir = scratch::dir();
    // apt's own sandbox user cannot write here.
    let download = || {
        let run = Run::new(need("apt-get", "apt")).args(["-o", "APT::Sandbox::User=root", "download", "cloud-init"]);
        run.dir(dir.path()).run()
    };
    if download().code != 0 {
        Run::new(need("apt-get", "apt")).arg("update").ok();
        let ran = download();
        assert!(ran.code == 0, "{ran}");
    }
    Run::new("sh").args(["-euc", "dpkg-deb --extract cloud-init_*.deb unpacked"]).dir(dir.path()).ok();
    dir
}

fn cloud_init_user_data() {
    let (quick, first, _) = roots();
    let data = quick.path("user-data");
    std::fs::write(&data, Run::new(deploy("cloud-init/render")).arg(&first).ok().stdout).unwrap();
    let program = cloud_init();
    let python = |script: &str| {
        let run = Run::new("unshare").args(["--mount", "sh", "-euc", script]).env("DATA", &data);
        run.env("ROOT", quick.path("root"))
            .env("PYTHONPATH", program.path().join("unpacked/usr/lib/python3/dist-packages"))
    };
    // Its own check of the form, and then its own module, in an /etc that is only this process's.
    python("exec /usr/bin/python3 -m cloudinit.cmd.main schema --config-file \"$DATA\"").ok().says("Valid");
    let script = r#"
mkdir -p "$ROOT/etc" "$ROOT/work"
mount -t overlay -o "lowerdir=/etc,upperdir=$ROOT/etc,workdir=$ROOT/work" overlay /etc
exec /usr/bin/python3 - <<'PYTHON'
import logging, os, types, yaml
from cloudinit.config import cc_write_files
cloud = types.SimpleNamespace(distro=types.SimpleNamespace(default_owner="root:root"))
cc_write_files.handle("write_files", yaml.safe_load(open(os.environ["DATA"])), cloud, logging.getLogger(), [])
PYTHON
"#;
    python(script).ok();
    deployed(&quick.path("root/etc/mcpfs/trust.json"), &first);
    assert!(
        !Path::new("/etc/mcpfs/trust.json").exists()
            || std::fs::read("/etc/mcpfs/trust.json").unwrap() != std::fs::read(&first).unwrap()
    );
}
