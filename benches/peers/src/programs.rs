//! Whole programs on files. A row is a name, what makes its keys, and two commands.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use wait4::Wait4;

use crate::{
    common::first_line,
    pairs::{Taken, in_turn},
    report::Line,
};

/// Its commands run in a folder of its own, and read `../plain`, write `sealed`, and read that, write `opened`.
struct Row {
    name: &'static str,
    version: &'static str,
    about: &'static str,
    /// For the shell; makes keys.
    setup: &'static str,
    encrypt: &'static str,
    decrypt: &'static str,
}

const OURS: Row = Row {
    name: "sealwire",
    version: "sealwire --version",
    about: "X25519, ChaCha20-Poly1305",
    setup: "sealwire keygen -o key > pub",
    encrypt: "sealwire seal -R pub -o sealed ../plain",
    decrypt: "sealwire open -k key -o opened sealed",
};

const PEERS: [Row; 4] = [
    Row {
        name: "rage",
        version: "rage --version",
        about: "age in Rust; X25519, ChaCha20-Poly1305",
        setup: "rage-keygen -o key && rage-keygen -y -o pub key",
        encrypt: "rage -e -R pub -o sealed ../plain",
        decrypt: "rage -d -i key -o opened sealed",
    },
    Row {
        name: "age",
        version: "age --version",
        about: "age in Go, as Debian has it; X25519, ChaCha20-Poly1305",
        setup: "age-keygen -o key && age-keygen -y -o pub key",
        encrypt: "age -e -R pub -o sealed ../plain",
        decrypt: "age -d -i key -o opened sealed",
    },
    Row {
        name: "openssl",
        version: "openssl version",
        about: "`openssl cms` to a certificate with a P-256 key; AES-256-GCM in one piece",
        setup: "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=peer -keyout key -out cert",
        encrypt: "openssl cms -encrypt -stream -binary -outform DER -aes-256-gcm -in ../plain -out sealed cert",
        decrypt: "openssl cms -decrypt -binary -inform DER -in sealed -out opened -recip cert -inkey key",
    },
    Row {
        name: "gpg",
        version: "gpg --version",
        about: "cv25519, no compression; the cipher that it chooses itself (AES in OpenPGP's CFB mode with SHA-1 for 2.2)",
        setup: "chmod 700 . && gpg -q --batch --passphrase '' --quick-gen-key peer future-default default never",
        encrypt: "gpg -q --batch --trust-model always -z 0 -r peer -o sealed --encrypt ../plain",
        decrypt: "gpg -q --batch -o opened --decrypt sealed",
    },
];

pub struct Measured {
    pub lines: Vec<Line>,
    /// Name, and why not.
    pub skipped: Vec<String>,
    /// Ours and its version.
    pub ours: String,
    /// What a process that does nothing holds, in MiB: less is not told apart.
    pub floor: f64,
}

/// Measures all rows beside ours with a file of so many MiB.
pub fn measure(dir: &Path, mib: u64, pairs: usize) -> Measured {
    let random = File::open("/dev/urandom").unwrap();
    io::copy(&mut random.take(mib << 20), &mut File::create(dir.join("plain")).unwrap()).unwrap();
    let (ours, name) = Ready::new(&OURS, dir).unwrap();
    let floor = run(dir, "true").unwrap().peak;
    let mut measured = Measured { lines: Vec::new(), skipped: Vec::new(), ours: name, floor };
    for row in &PEERS {
        let (peer, name) = match Ready::new(row, dir) {
            Ok(ready) => ready,
            Err(why) => {
                let skipped = format!("SKIPPED: {}: {why}", row.name);
                eprintln!("{skipped}");
                measured.skipped.push(skipped);
                continue;
            }
        };
        for (verb, output, our_command, their_command) in
            [("encrypt", "sealed", OURS.encrypt, row.encrypt), ("decrypt", "opened", OURS.decrypt, row.decrypt)]
        {
            let sides = in_turn(pairs, &mut || ours.again(output, our_command), &mut || peer.again(output, their_command));
            measured.lines.push(Line { verb, peer: name.clone(), about: row.about, sides }.print());
        }
        fs::remove_dir_all(&peer.dir).unwrap();
    }
    measured
}

/// A program that gave back what it got, so that none looks fast because it fails.
struct Ready {
    dir: PathBuf,
}

impl Ready {
    fn new(row: &'static Row, dir: &Path) -> Result<(Self, String), String> {
        let version = first_line(row.version).ok_or_else(|| format!("`{}` does not run", row.version))?;
        let number = version.split(' ').find(|word| word.starts_with(|c: char| c.is_ascii_digit())).unwrap_or(&version);
        let ready = Self { dir: dir.join(row.name) };
        fs::create_dir(&ready.dir).map_err(|error| error.to_string())?;
        wait(&ready.dir, Command::new("sh").args(["-ec", row.setup]))?;
        run(&ready.dir, row.encrypt)?;
        run(&ready.dir, row.decrypt)?;
        run(&ready.dir, "cmp ../plain opened").map_err(|why| format!("it does not give back what it got: {why}"))?;
        Ok((ready, format!("{} {number}", row.name)))
    }

    /// Its output is new each time: nobody pays for taking an old file apart.
    fn again(&self, output: &str, command: &str) -> Taken {
        fs::remove_file(self.dir.join(output)).unwrap();
        run(&self.dir, command).unwrap()
    }
}

fn run(dir: &Path, command: &str) -> Result<Taken, String> {
    let mut words = command.split(' ');
    wait(dir, Command::new(words.next().unwrap_or_default()).args(words))
}

/// Runs a process to its end. Its peak is at least that of this process, from which it was made: this one stays small.
fn wait(dir: &Path, command: &mut Command) -> Result<Taken, String> {
    let said = dir.join("stderr");
    let stderr = File::create(&said).map_err(|error| error.to_string())?;
    command.current_dir(dir).env("GNUPGHOME", dir).stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
    let started = Instant::now();
    let used = command.spawn().and_then(Wait4::wait4).map_err(|error| format!("{command:?}: {error}"))?;
    let seconds = started.elapsed().as_secs_f64();
    if !used.status.success() {
        return Err(format!("{} ({})", fs::read_to_string(said).unwrap_or_default().trim(), used.status));
    }
    let (user, system) = (used.rusage.utime.as_secs_f64(), used.rusage.stime.as_secs_f64());
    Ok(Taken { seconds, user, system, peak: used.rusage.maxrss as f64 / f64::from(1 << 20) })
}
