//! A terminal, and a command that was started from it.

use std::{
    fs::File,
    io::{Read, Write},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use nix::{
    pty::openpty,
    sys::termios::{LocalFlags, tcgetattr},
};

use super::{PROGRAM, Place};

/// How long a terminal may take to say what it should.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A terminal of its own, with a shell command that was started from it.
pub struct Terminal {
    pub master: File,
    pub slave: File,
    pub child: Child,
    pub said: mpsc::Receiver<Vec<u8>>,
    pub screen: String,
}

impl Terminal {
    pub fn run(place: &Place, script: &str) -> Self {
        let pty = openpty(None, None).unwrap();
        let (master, slave) = (File::from(pty.master), File::from(pty.slave));
        let stdio = || Stdio::from(slave.try_clone().unwrap());
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait", "sh", "-c", &script.replace("sealwire", PROGRAM)]).current_dir(place.path("."));
        let child = command.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().unwrap();
        let (says, said) = mpsc::channel();
        let mut reader = master.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 1024];
            while let Ok(n) = reader.read(&mut buffer) {
                if n == 0 || says.send(buffer[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { master, slave, child, said, screen: String::new() }
    }

    /// Waits until the screen ends with this.
    pub fn shows(&mut self, wanted: &str) {
        let until = Instant::now() + PATIENCE;
        while !self.screen.ends_with(wanted) {
            let left = until.saturating_duration_since(Instant::now());
            let more =
                self.said.recv_timeout(left).unwrap_or_else(|_| panic!("{wanted:?} is awaited, and there is {:?}", self.screen));
            self.screen.push_str(&String::from_utf8(more).unwrap());
        }
    }

    pub fn types(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    pub fn echoes(&self) -> bool {
        tcgetattr(&self.slave).unwrap().local_flags.contains(LocalFlags::ECHO)
    }

    /// What became of the command, and all that the screen showed.
    pub fn ends(mut self) -> (i32, String) {
        let until = Instant::now() + PATIENCE;
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None if Instant::now() > until => panic!("it does not end: {:?}", self.screen),
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        assert!(self.echoes(), "the terminal does not show what is typed");
        while let Ok(more) = self.said.recv_timeout(Duration::from_millis(100)) {
            self.screen.push_str(&String::from_utf8(more).unwrap());
        }
        (status.code().unwrap(), self.screen.replace("\r\n", "\n"))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
