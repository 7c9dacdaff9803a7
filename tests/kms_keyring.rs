//! Root keys in real keyrings: the Linux kernel's, and GNOME Keyring on a D-Bus of its own. Other programs (`keyctl`, `secret-tool`) look what
//! is there. Without them tests are reported as ignored, never as passed.

use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
};

use libtest_mimic::{Arguments, Failed, Trial};
use linux_keyutils::{KeyRing, KeyRingIdentifier};
use program::{Place, Ran};
use service::Served;

mod program;
#[allow(dead_code, reason = "every test file uses its own part")]
#[path = "program/service.rs"]
mod service;

type Test = (&'static str, fn(&Keys));

/// In both keyrings.
const BOTH: [Test; 6] = [
    ("a store under a key in the keyring", a_store),
    ("a key that is there is not written over", not_over),
    ("nothing stays where no store came to be", nothing_stays),
    ("to the keyring and away from it", there_and_back),
    ("what is no root key", no_root_key),
    ("a key under a passphrase", under_a_passphrase),
];

/// In the kernel's alone.
const KERNEL: [Test; 2] = [("a service in a session of its own", own_session), ("two at one moment", two_at_once)];

/// What a child of ours is told: which test it is, on its own D-Bus.
const CHILD: &str = "SEALWIRE_KEYRING_TEST";

fn main() {
    if let Ok(name) = env::var(CHILD) {
        let (_, test) = BOTH.iter().find(|(known, _)| *known == name).unwrap();
        return test(&Keys::new(Ring::System));
    }
    let kernel = has_kernel().err();
    let system = ["dbus-run-session", "gnome-keyring-daemon", "secret-tool"].into_iter().find(|name| !runs(name));
    let in_kernel = BOTH.into_iter().chain(KERNEL).map(|(name, test)| {
        trial(format!("kernel: {name}"), kernel.clone(), move || {
            test(&Keys::new(Ring::Kernel));
            Ok(())
        })
    });
    let in_system =
        BOTH.map(|(name, _)| trial(format!("Secret Service: {name}"), system.map(str::to_owned), move || on_a_bus(name)));
    let nowhere = Trial::test("no keyring at all", || {
        no_keyring();
        Ok(())
    });
    let all = in_kernel.chain(in_system).chain([nowhere]).collect();
    libtest_mimic::run(&Arguments::from_args(), all).exit();
}

fn trial(name: String, missing: Option<String>, run: impl FnOnce() -> Result<(), Failed> + Send + 'static) -> Trial {
    if let Some(missing) = &missing {
        eprintln!("SKIPPED: {name}: {missing} is missing");
    }
    Trial::test(name, run).with_ignored_flag(missing.is_some())
}

fn runs(program: &str) -> bool {
    Command::new(program).arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// Whether there is a keyring to be had of this kernel, and `keyctl`.
fn has_kernel() -> Result<(), String> {
    if !runs("keyctl") {
        return Err("keyctl".into());
    }
    let ring = KeyRing::from_special_id(KeyRingIdentifier::User, true);
    let key = ring.and_then(|ring| ring.add_key("sealwire-test:probe", b"x").and_then(|key| ring.unlink_key(key)));
    key.map_err(|error| format!("the kernel's keyring ({error})"))
}

/// Runs a test in a process with a D-Bus, a GNOME Keyring and a home of its own.
fn on_a_bus(name: &str) -> Result<(), Failed> {
    let home = tempfile::tempdir().unwrap();
    let script = "printf swordfish | gnome-keyring-daemon --unlock --components=secrets && exec \"$0\"";
    let mut command = Command::new("dbus-run-session");
    command.args(["--", "bash", "-c", script]).arg(env::current_exe().unwrap()).current_dir(home.path()).env(CHILD, name);
    for place in ["HOME", "XDG_RUNTIME_DIR", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"] {
        command.env(place, home.path());
    }
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(()) } else { Err(said.into()) }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ring {
    Kernel,
    System,
}

/// A keyring, as other programs know it, and a place. What was put there is taken out in the end.
struct Keys {
    ring: Ring,
    place: Place,
    name: String,
}

impl Keys {
    fn new(ring: Ring) -> Self {
        let place = Place::new();
        // Another one for each test and each run.
        let name = format!("test/{}", place.folder.path().file_name().unwrap().to_str().unwrap().trim_start_matches('.'));
        Self { ring, place, name }
    }

    /// How options name it.
    fn option(&self, name: &str) -> String {
        let name = format!("{}-{name}", self.name);
        if self.ring == Ring::Kernel { format!("kernel:{name}") } else { name }
    }

    /// What other programs find under a name.
    fn look(&self, name: &str) -> Option<String> {
        let name = format!("{}-{name}", self.name);
        let script = match self.ring {
            Ring::Kernel => format!("keyctl link @u @s; keyctl pipe $(keyctl search @u user sealwire:{name})"),
            Ring::System => format!("secret-tool lookup service sealwire username {name}"),
        };
        let output = Command::new("bash").args(["-c", &script]).stdin(Stdio::null()).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap()).filter(|text| !text.is_empty())
    }

    /// Has another program put something there.
    fn put(&self, name: &str, file: &str) {
        let name = format!("{}-{name}", self.name);
        let script = match self.ring {
            Ring::Kernel => format!("keyctl padd user sealwire:{name} @u < {file}"),
            Ring::System => format!("secret-tool store --label=test service sealwire username {name} < {file}"),
        };
        let output = Command::new("bash").args(["-c", &script]).current_dir(self.place.path(".")).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    fn run(&self, args: &[&str]) -> Ran {
        self.place.run(args, b"")
    }

    /// A store that is under a new key of this name.
    fn init(&self, store: &str, name: &str) -> Ran {
        self.run(&["kms", "init", "--store", store, "--root-keyring", &self.option(name)])
    }

    /// Lists the CMKs of a store that is under what the keyring has.
    fn list(&self, store: &str, name: &str) -> Ran {
        self.run(&["kms", "list-keys", "--store", store, "--root-keyring", &self.option(name)])
    }

    fn list_by_file(&self, store: &str, file: &str) -> Ran {
        self.run(&["kms", "list-keys", "--store", store, "--root-key-file", file])
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        if self.ring == Ring::Kernel {
            let script = format!(
                "keyctl link @u @s; for key in $(keyctl rlist @u); do case $(keyctl rdescribe $key) in *';sealwire:{}-'*) keyctl unlink $key @u;; esac; done",
                self.name
            );
            let _ = Command::new("bash").args(["-c", &script]).output();
        }
    }
}

fn a_store(keys: &Keys) {
    let made = keys.init("keys", "a");
    assert!(made.code == 0 && made.err.starts_with("store: keys "), "{}", made.err);
    let lasts = match keys.ring {
        Ring::Kernel => "is there until the machine is started again, and then gone with all that is in the store: keep a copy",
        Ring::System => "is kept there alone: keep a copy",
    };
    assert!(made.err.lines().nth(1).is_some_and(|line| line.contains(lasts)), "{}", made.err);
    // What others find there is the text of a key file, and as one it opens the store.
    let text = keys.look("a").unwrap();
    assert!(text.starts_with("# created: 20") && text.contains("\nSW-SECRET-CMK-1"), "{}", text.len());
    keys.place.write("copy.key", text.as_bytes());
    fs::set_permissions(keys.place.path("copy.key"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let name = keys.option("a");
    let store = ["--store", "keys", "--root-keyring", &name];
    let kms = |verb: &str, args: &[&str]| keys.run(&[&["kms", verb], &store[..], args].concat());
    assert_eq!(kms("create-key", &["--json", "--alias", "orders"]).silent().code, 0);
    assert_eq!(keys.list_by_file("keys", "copy.key").silent().line(), kms("list-keys", &[]).silent().line());
    let to = kms("get-public-key", &["orders"]).silent().line();
    let sealed = keys.place.run(["seal", "-r", &to], b"payload").silent().out;
    keys.place.write("sealed", &sealed);
    assert_eq!(keys.run(&["open", "--kms-store", "keys", "--root-keyring", &name, "sealed"]).silent().out, b"payload");
    assert!(kms("audit", &[]).silent().line().starts_with("the audit log is what was written"));
    // A backup, a server and a replica are under the same.
    assert_eq!(keys.run(&["kms", "backup", "--store", "keys", "-o", "backup"]).code, 0);
    let restored = keys.run(&["kms", "restore", "--store", "restored", "--root-keyring", &name, "backup"]);
    assert_eq!(restored.code, 0, "{}", restored.err);
    assert_eq!(keys.run(&["open", "--kms-store", "restored", "--root-keyring", &name, "sealed"]).silent().out, b"payload");
    let sender = keys.run(&["keygen", "--sender", "-o", "me.key"]).line();
    let identity = keys.run(&["kms", "identity", "-o", "server.identity"]).out;
    keys.place.write("server.pub", &identity);
    let policy = format!("[[caller]]\nname = \"me\"\nkey = \"{sender}\"\nallow = [{{ verbs = [\"*\"], keys = [\"*\"] }}]\n");
    keys.place.write("policy.toml", policy.as_bytes());
    let serve = ["kms", "serve", "--on", "127.0.0.1:0", "--identity", "server.identity", "--policy", "policy.toml"];
    for more in [&["--store", "keys"][..], &["--store", "backup", "--replica", "--audit-log", "log"]] {
        let command = keys.place.command([&serve[..], more, &["--root-keyring", &name]].concat());
        let served = Served::start(command).unwrap_or_else(|said| panic!("{said}"));
        let ask = ["open", "--kms-server", &served.address, "--server-identity", "server.pub", "--as", "me.key", "sealed"];
        assert_eq!(keys.run(&ask).silent().out, b"payload");
        assert_eq!(served.stop().0, 0);
    }
    let both = keys.run(&["kms", "list-keys", "--store", "keys", "--root-keyring", &name, "--root-key-file", "copy.key"]);
    assert_eq!(both.code, 2);
}

fn not_over(keys: &Keys) {
    assert_eq!(keys.init("keys", "a").code, 0);
    let text = keys.look("a").unwrap();
    keys.init("other", "a").failed(2, "it is there already, and a root key is never written over; take another name");
    assert!(!keys.place.path("other").exists());
    // Nor is anything else that is called so.
    keys.place.write("mine", b"mine");
    keys.put("b", "mine");
    keys.init("other", "b").failed(2, "it is there already");
    let name = keys.option("a");
    keys.run(&["kms", "change-root", "--store", "keys", "--root-keyring", &name, "--new-root-keyring", &name])
        .failed(2, "it is there already");
    assert_eq!((keys.look("a").unwrap(), keys.look("b").unwrap()), (text, "mine".to_owned()));
    assert_eq!(keys.list("keys", "a").silent().code, 0);
    // A store that is there is told before a key is made for it.
    keys.init("keys", "c").failed(2, "is a store already");
    assert_eq!(keys.look("c"), None);
}

fn nothing_stays(keys: &Keys) {
    keys.place.write("file", b"");
    let failed = keys.init("file", "a");
    assert!(failed.code != 0 && keys.look("a").is_none(), "{}", failed.err);
    assert_eq!(keys.init("no/such/folder", "a").code, 7);
    assert_eq!(keys.look("a"), None);
    assert_eq!(keys.init("keys", "a").code, 0);
    // The state cannot be replaced: its new file's name is taken by a folder.
    fs::create_dir(keys.place.path("keys/state.new")).unwrap();
    fs::write(keys.place.path("keys/state.new/x"), b"").unwrap();
    let change =
        ["kms", "change-root", "--store", "keys", "--root-keyring", &keys.option("a"), "--new-root-keyring", &keys.option("b")];
    assert_ne!(keys.run(&change).code, 0);
    assert_eq!(keys.look("b"), None);
    fs::remove_dir_all(keys.place.path("keys/state.new")).unwrap();
    assert_eq!(keys.list("keys", "a").silent().code, 0);
    assert_eq!(keys.run(&change).code, 0);
    assert_eq!(keys.list("keys", "b").silent().code, 0);
}

fn there_and_back(keys: &Keys) {
    keys.place.keygen("root.key");
    assert_eq!(keys.run(&["kms", "init", "--store", "keys", "--root-key-file", "root.key"]).code, 0);
    assert_eq!(keys.run(&["kms", "create-key", "--json", "--store", "keys", "--root-key-file", "root.key"]).code, 0);
    let listed = keys.list_by_file("keys", "root.key").silent().line();
    let [a, b] = ["a", "b"].map(|name| keys.option(name));
    let change = |from: [&str; 2], to: &[&str]| keys.run(&[&["kms", "change-root", "--store", "keys"], &from[..], to].concat());
    let said = change(["--root-key-file", "root.key"], &["--new-root-keyring", &a]);
    assert!(said.code == 0 && said.err.contains("keep a copy"), "{}", said.err);
    assert_eq!(keys.list("keys", "a").silent().line(), listed);
    keys.list_by_file("keys", "root.key").failed(2, "is another than the store's");
    // To another one of the keyring, to a passphrase, and to a file.
    assert_eq!(change(["--root-keyring", &a], &["--new-root-keyring", &b]).code, 0);
    keys.list("keys", "a").failed(2, "is another than the store's");
    keys.place.write("pass", b"correct horse\n");
    assert_eq!(change(["--root-keyring", &b], &["--new-passphrase-file", "pass"]).code, 0);
    keys.list("keys", "b").failed(2, "is under a passphrase");
    let back =
        keys.run(&["kms", "change-root", "--store", "keys", "--passphrase-file", "pass", "--new-root-key-file", "root.key"]);
    assert_eq!(back.code, 0, "{}", back.err);
    assert_eq!(keys.list_by_file("keys", "root.key").silent().line(), listed);
    // What is there stays there: backups are under it.
    assert!(keys.look("a").is_some() && keys.look("b").is_some());
    for both in [["--new-root-key-file", "root.key"], ["--new-passphrase-file", "pass"], ["--new-passphrase-fd", "3"]] {
        assert_eq!(change(["--root-key-file", "root.key"], &[&both[..], &["--new-root-keyring", "c"]].concat()).code, 2);
    }
}

fn no_root_key(keys: &Keys) {
    assert_eq!(keys.init("keys", "a").code, 0);
    let none = keys.list("keys", "nobody").failed(2, "this user has none of that name there");
    assert_eq!(none.err.contains("since the machine was started"), keys.ring == Ring::Kernel, "{}", none.err);
    for (name, content, said) in [
        ("text", &b"hello"[..], "key string"),
        ("binary", b"\xff\xfe\x00", "not the text of a key file"),
        ("empty", b"# nothing\n", "there is no key in it"),
    ] {
        keys.place.write(name, content);
        keys.put(name, name);
        let ran = keys.list("keys", name);
        assert!(ran.code == 2 && ran.err.lines().count() == 1, "{name}: {}", ran.err);
        assert!(ran.err.contains(said) || name == "text", "{name}: {}", ran.err);
        assert!(!ran.err.contains("hello"), "{}", ran.err);
    }
    keys.place.keygen("other.key");
    keys.put("other", "other.key");
    keys.list("keys", "other").failed(2, "is another than the store's");
    for bad in ["", "kernel:", "a b", "kernel:a:b", "öl"] {
        let ran = keys.run(&["kms", "list-keys", "--store", "keys", "--root-keyring", bad]);
        assert!(ran.code == 2 && ran.err.contains("a name is 1 to 64 letters"), "{bad}: {}", ran.err);
    }
}

/// What was put there by hand may be protected as a key file may be.
fn under_a_passphrase(keys: &Keys) {
    keys.place.write("pass", b"correct horse\n");
    keys.place.write("wrong", b"incorrect horse\n");
    for name in ["pass", "wrong"] {
        fs::set_permissions(keys.place.path(name), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }
    assert_eq!(keys.run(&["keygen", "--passphrase-file", "pass", "-o", "root.key"]).code, 0);
    let init = keys.run(&["kms", "init", "--store", "keys", "--root-key-file", "root.key", "--passphrase-file", "pass"]);
    assert_eq!(init.code, 0, "{}", init.err);
    keys.put("a", "root.key");
    let list =
        |pass| keys.run(&["kms", "list-keys", "--store", "keys", "--root-keyring", &keys.option("a"), "--passphrase-file", pass]);
    list("pass").silent();
    list("wrong").failed(2, "the passphrase is wrong");
}

/// Under systemd, and after a login somewhere else: a session that leads to no key of the user's.
fn own_session(keys: &Keys) {
    assert_eq!(keys.init("keys", "a").code, 0);
    let list = ["kms", "list-keys", "--store", "keys", "--root-keyring", &keys.option("a")].map(str::to_owned);
    let mut command = Command::new("keyctl");
    command.args(["session", "-", program::PROGRAM]).args(list).current_dir(keys.place.path("."));
    let ran = Ran::of(command.stdin(Stdio::null()).output().unwrap());
    assert_eq!(ran.code, 0, "{}", ran.err);
    // One that is used up, or taken away, is none, and one of that name can be made again.
    let script = format!("keyctl link @u @s; keyctl revoke $(keyctl search @u user sealwire:{}-a)", keys.name);
    assert!(Command::new("bash").args(["-c", &script]).output().unwrap().status.success());
    keys.list("keys", "a").failed(2, "this user has none of that name there");
    assert_eq!(keys.init("again", "a").code, 0);
    keys.list("again", "a").silent();
}

/// Who puts another key under a name that he has found free does not take the root key of a store that came to be meanwhile; and who finds
/// another's in the place of his own makes no store.
fn two_at_once(keys: &Keys) {
    let ring = KeyRing::from_special_id(KeyRingIdentifier::User, true).unwrap();
    KeyRing::from_special_id(KeyRingIdentifier::Process, true).unwrap().link_keyring_id(KeyRingIdentifier::User).unwrap();
    keys.place.keygen("root.key");
    let mut kept = [0, 0];
    for round in 0..40 {
        let (name, store) = (format!("{round}"), format!("keys {round}"));
        let description = format!("sealwire:{}-{round}", keys.name);
        let over = AtomicBool::new(false);
        let is_change = round % 2 == 1;
        if is_change {
            assert_eq!(keys.run(&["kms", "init", "--store", &store, "--root-key-file", "root.key"]).code, 0);
        }
        let ran = thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    if ring.search(&description).is_ok() {
                        let _ = ring.add_key(&description, b"another's");
                        return;
                    }
                }
            });
            let ran = match is_change {
                false => keys.init(&store, &name),
                true => keys.run(&[
                    "kms",
                    "change-root",
                    "--store",
                    &store,
                    "--root-key-file",
                    "root.key",
                    "--new-root-keyring",
                    &keys.option(&name),
                ]),
            };
            over.store(true, Relaxed);
            ran
        });
        if ran.code == 0 {
            // Later than anybody's look, too.
            assert!(ring.add_key(&description, b"another's").is_err());
            keys.run(&["kms", "list-keys", "--store", &store, "--root-keyring", &keys.option(&name)]).silent();
            kept[usize::from(is_change)] += 1;
            continue;
        }
        assert!(ran.code == 7 && ran.err.contains("another root key was put there at the same moment"), "{}", ran.err);
        assert_eq!(keys.look(&name).as_deref(), Some("another's"));
        if is_change {
            keys.list_by_file(&store, "root.key").silent();
        } else {
            assert!(!keys.place.path(&store).exists());
        }
    }
    assert!(kept[0] > 0 && kept[1] > 0, "{kept:?}");
}

/// Without a D-Bus, which is how servers are.
fn no_keyring() {
    let place = Place::new();
    let mut command = place.command(["kms", "init", "--store", "keys", "--root-keyring", "orders"]);
    let nowhere = format!("unix:path={}", place.path("bus").display());
    let ran = Ran::of(command.env("DBUS_SESSION_BUS_ADDRESS", nowhere).stdin(Stdio::null()).output().unwrap());
    let ran = ran.failed(7, "orders in the keyring: no keyring answers here");
    assert!(ran.err.contains("a server without a desktop has kernel:orders, or better --root-key-file"), "{}", ran.err);
    assert!(!Path::new(&place.path("keys")).exists());
}
