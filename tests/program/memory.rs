//! What stands in the memory of a process that runs.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
};

/// How often each of these secrets stands in what the process may write to, by their order.
///
/// # Errors
/// Where the system lets nobody look there.
pub fn times_in(pid: u32, secrets: &[Vec<u8>]) -> io::Result<Vec<usize>> {
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    // Few places begin with two bytes that any of them begins with.
    let mut beginnings = vec![Vec::new(); 1 << 16];
    for (i, secret) in secrets.iter().enumerate() {
        beginnings[usize::from(u16::from_be_bytes([secret[0], secret[1]]))].push(i);
    }
    let (mut found, mut read) = (vec![0; secrets.len()], 0);
    for line in maps.lines().filter(|line| line.contains(" rw-") && !line.contains("[v")) {
        let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        let (start, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        // A mapping may go while it is looked at.
        let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
        let len = read_all(&memory, &mut bytes, start);
        read += len;
        for (at, two) in bytes[..len].windows(2).enumerate() {
            for i in &beginnings[usize::from(u16::from_be_bytes([two[0], two[1]]))] {
                found[*i] += usize::from(bytes[at..len].starts_with(&secrets[*i]));
            }
        }
    }
    if read == 0 { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(found) }
}

fn read_all(memory: &File, bytes: &mut [u8], start: u64) -> usize {
    let mut len = 0;
    while let Ok(n @ 1..) = memory.read_at(&mut bytes[len..], start + len as u64) {
        len += n;
    }
    len
}
