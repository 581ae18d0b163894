//! Where things lie: the data directory, the engine's socket, private files.
use sha2::{Digest, Sha256};
use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

/// Longest path of a socket that we trust every system with (`sun_path` holds 108 bytes on Linux, 104 elsewhere).
const MAX_SOCKET: usize = 100;

/// The data directory: as given, else `$XDG_DATA_HOME/syp`, else `~/.local/share/syp`; absolute.
///
/// # Errors
/// When neither a home nor a current directory is known.
pub fn data_dir(given: Option<&Path>) -> io::Result<PathBuf> {
    let set = |k: &str| std::env::var_os(k).filter(|v: &OsString| !v.is_empty()).map(PathBuf::from);
    let dir = given
        .map(Path::to_path_buf)
        .or_else(|| set("XDG_DATA_HOME").filter(|p| p.is_absolute()).map(|p| p.join("syp")))
        .or_else(|| set("HOME").map(|h| h.join(".local/share/syp")))
        .ok_or_else(|| io::Error::other("HOME is not set: say where the data goes with --data-dir"))?;
    std::path::absolute(dir)
}

/// The engine's socket. A data directory with a long path has it in a folder of the user's own under `/tmp`.
pub fn socket_path(data_dir: &Path) -> PathBuf {
    let near = data_dir.join("engine.sock");
    if near.as_os_str().len() <= MAX_SOCKET {
        return near;
    }
    let hash = hex::encode(&Sha256::digest(data_dir.as_os_str().as_bytes())[..8]);
    PathBuf::from(format!("/tmp/syp-{}-{hash}", nix::unistd::getuid())).join("engine.sock")
}

/// Makes a directory that only its owner can read.
///
/// # Errors
/// As the file system says.
pub fn private_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Takes the rights of everybody else from a folder and what is in it, as far as it is ours; links are not followed.
///
/// # Errors
/// As the file system says.
pub fn only_ours(dir: &Path) -> io::Result<()> {
    let uid = nix::unistd::getuid().as_raw();
    let mut open = vec![dir.to_path_buf()];
    while let Some(path) = open.pop() {
        let m = fs::symlink_metadata(&path)?;
        if m.is_symlink() || m.uid() != uid {
            continue;
        }
        if m.mode() & 0o077 != 0 {
            fs::set_permissions(&path, fs::Permissions::from_mode(m.mode() & 0o700))?;
        }
        if m.is_dir() {
            for entry in fs::read_dir(&path)? {
                open.push(entry?.path());
            }
        }
    }
    Ok(())
}

/// Writes a file that only its owner can read, at once or not at all.
///
/// # Errors
/// As the file system says.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(name);
    let _ = fs::remove_file(&temporary);
    let mut f = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    f.write_all(content)?;
    drop(f);
    fs::rename(&temporary, path)
}

/// Opens a private file for appending.
///
/// # Errors
/// As the file system says.
pub fn append_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_folder_is_closed_with_what_is_in_it() {
        let d = tempfile::tempdir().unwrap();
        let store = d.path().join("store");
        fs::create_dir_all(store.join("blobs")).unwrap();
        fs::write(store.join("blobs/1"), b"x").unwrap();
        let set = |p: &Path, m| fs::set_permissions(p, fs::Permissions::from_mode(m)).unwrap();
        set(&store, 0o755);
        set(&store.join("blobs/1"), 0o644);
        only_ours(&store).unwrap();
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&store), mode(&store.join("blobs/1"))), (0o700, 0o600));
        assert_eq!(mode(&store.join("blobs")) & 0o077, 0);
    }

    #[test]
    fn a_long_data_dir_has_its_socket_in_tmp() {
        assert_eq!(socket_path(Path::new("/d")), Path::new("/d/engine.sock"));
        let long = PathBuf::from("/").join("x".repeat(120));
        let p = socket_path(&long);
        assert!(p.starts_with("/tmp") && p.as_os_str().len() < MAX_SOCKET, "{p:?}");
        assert_ne!(p, socket_path(&long.join("y")));
    }

    #[test]
    fn private_files_are_private() {
        let d = tempfile::tempdir().unwrap();
        let dir = d.path().join("a/b");
        private_dir(&dir).unwrap();
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir), 0o700);
        write_private(&dir.join("t"), b"1").unwrap();
        write_private(&dir.join("t"), b"2").unwrap();
        assert_eq!((mode(&dir.join("t")), fs::read(dir.join("t")).unwrap()), (0o600, b"2".to_vec()));
    }
}
