//! `sypctl server backup` and `server restore`.
use super::Ctx;
use crate::{
    backup::{NAMES, Reader, Staging, Writer, finish, unfinished},
    client::{Client, Start},
    exit,
    failure::{Done, Failure},
    paths, render,
};
use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, IsTerminal as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use syp_engine::{api::BACKUP_FORMAT, store::FORMAT};
use syp_proto::v1::{
    BackupStoreRequest,
    backup_chunk::{File as Kept, Header, Part},
    server_client::ServerClient,
};

/// An engine that has just ended lets go of its files within this.
const ENDING: Duration = Duration::from_secs(2);

/// Arguments of `server backup`.
#[derive(Debug, clap::Args)]
pub struct Backup {
    /// Where to write it; - is stdout. It has the engine's keys in it: keep it like a password
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Arguments of `server restore`.
#[derive(Debug, clap::Args)]
pub struct Restore {
    /// A backup; - is stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Put it in the place of the store that is there, which is kept aside
    #[arg(long)]
    replace: bool,
}

/// The local engine's data directory; both commands need its files.
fn here(ctx: &Ctx<'_>) -> Result<PathBuf, Failure> {
    if ctx.global.server.as_deref().is_some_and(|s| !s.is_empty()) {
        return Err(Failure::usage(
            "backup and restore need the engine's files: run them on its machine, as its user, without --server and SYPCTL_SERVER",
        ));
    }
    Ok(paths::data_dir(ctx.global.data_dir.as_deref())?)
}

fn summary(h: &Header, more: serde_json::Value) -> serde_json::Value {
    let mut v = serde_json::json!({
        "storeId": h.store_id,
        "version": h.version,
        "time": render::time(h.time.as_ref()),
        "instances": h.instances,
    });
    if let (Some(v), serde_json::Value::Object(more)) = (v.as_object_mut(), more) {
        v.extend(more);
    }
    v
}

/// Writes a backup while the engine works on.
///
/// # Errors
/// What the engine or the file system said; then there is no file.
pub async fn backup(ctx: &Ctx<'_>, a: Backup) -> Done {
    let dir = here(ctx)?;
    let to_stdout = a.file == Path::new("-");
    if to_stdout && io::stdout().is_terminal() {
        return Err(Failure::usage("a backup is no text: redirect stdout, or name a file"));
    }
    if !to_stdout && a.file.exists() {
        return Err(Failure::new(
            exit::CONFLICT,
            "FILE_EXISTS",
            format!("{} is there already", a.file.display()),
            "choose another name, or remove it first",
        ));
    }
    let client = Client::open(ctx.global, Start::IfNeeded).await?;
    if to_stdout {
        let (h, _) = copy(&client, &dir, io::stdout()).await?;
        ctx.out.note(format!("wrote the backup of {} instances", h.instances.len()));
        return Ok(exit::OK);
    }
    let parent = a.file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    // private from its first byte, and under its name only when it is whole
    let temporary = tempfile::Builder::new().prefix(".sypctl-backup").tempfile_in(parent)?;
    let (header, out) = copy(&client, &dir, BufWriter::new(temporary)).await?;
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.as_file().sync_all()?;
    let bytes = file.as_file().metadata()?.len();
    file.persist_noclobber(&a.file).map_err(|e| e.error)?;
    File::open(parent)?.sync_all()?;
    let text = format!(
        "{}: {}, {} instances, store {}",
        a.file.display(),
        render::bytes(i64::try_from(bytes).unwrap_or(i64::MAX)),
        header.instances.len(),
        header.store_id
    );
    let more = serde_json::json!({ "file": a.file.display().to_string(), "bytes": bytes });
    ctx.out.summary(&summary(&header, more), &text, &a.file.display().to_string())?;
    ctx.out.note("it has the engine's keys in it: keep it like a password. 'sypctl server restore FILE' brings it back");
    Ok(exit::OK)
}

async fn copy<W: io::Write>(client: &Client, dir: &Path, out: W) -> Result<(Header, W), Failure> {
    let request = BackupStoreRequest {};
    let open = |ch, r| async move {
        ServerClient::new(ch).max_decoding_message_size(16 << 20).backup_store(r).await
    };
    let mut stream = client.stream(request, open).await?;
    let mut writer = Writer::new(out)?;
    let mut header = None;
    loop {
        let part = stream.message().await.map_err(Failure::from)?.and_then(|c| c.part);
        match part {
            Some(Part::Header(h)) => {
                header = Some(h.clone());
                writer.add(Part::Header(h))?;
                for name in &NAMES[1..] {
                    match fs::read(dir.join(name)) {
                        Ok(content) => writer.add(Part::File(Kept { name: (*name).into(), content }))?,
                        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                        Err(e) => return Err(e.into()),
                    }
                }
            }
            Some(part @ Part::Batch(_)) => writer.add(part)?,
            Some(Part::End(_)) => break,
            // from a newer engine, or cut off: half a backup is none
            Some(Part::File(_)) | None => {
                return Err(Failure::new(
                    exit::FAILED,
                    "BACKUP_BROKEN",
                    "the engine ended the backup before all of it was there",
                    "look into engine.log, and make it again",
                ));
            }
        }
    }
    let mut out = writer.end()?;
    out.flush()?;
    Ok((header.unwrap_or_default(), out))
}

/// Brings a backup back.
///
/// # Errors
/// It is no backup, an engine runs, or something is there already; then nothing was replaced.
pub async fn restore(ctx: &Ctx<'_>, a: Restore) -> Done {
    let dir = here(ctx)?;
    paths::private_dir(&dir)?;
    // nobody starts an engine here meanwhile, and none runs
    let start = paths::append_private(&dir.join("start.lock"))?;
    let busy = || {
        Failure::new(
            exit::UNAVAILABLE,
            "STORE_BUSY",
            format!("an engine works on {}", dir.display()),
            "stop it first: 'sypctl server stop'; instances go on serving",
        )
    };
    let db = File::open(dir.join("store/db")).ok();
    let end = Instant::now() + ENDING;
    while start.try_lock().is_err() || db.as_ref().is_some_and(|f| f.try_lock().is_err()) {
        if Instant::now() > end {
            return Err(busy());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    if unfinished(&dir) {
        finish(&dir)?;
        ctx.out.note("finished a restore that was interrupted; run the command again for another one");
        return Ok(exit::OK);
    }
    if dir.join("store").exists() && !a.replace {
        return Err(Failure::new(
            exit::CONFLICT,
            "RESTORE_WOULD_REPLACE",
            format!("{} has a store", dir.display()),
            "--replace puts the backup in its place and keeps it aside; --data-dir chooses another place",
        ));
    }
    let former = format!("replaced-{}", render::now_ms() / 1000);
    let header = if a.file == Path::new("-") {
        stage(&dir, io::stdin().lock(), &former)
    } else {
        let file = File::open(&a.file).map_err(|e| {
            Failure::new(
                exit::USAGE,
                "INVALID_ARGUMENT",
                format!("{}: {e}", a.file.display()),
                "name a backup",
            )
        })?;
        stage(&dir, BufReader::new(file), &former)
    }?;
    let aside = finish(&dir)?;
    drop((db, start));
    let when = render::time(header.time.as_ref());
    let text = format!("restored {} instances as they were at {when}", header.instances.len());
    let more = serde_json::json!({ "aside": aside.as_ref().map(|p| p.display().to_string()) });
    ctx.out.summary(&summary(&header, more), &text, &header.store_id)?;
    if let Some(aside) = aside {
        ctx.out.note(format!("what was there is in {}: remove it when all is well", aside.display()));
    }
    ctx.out.note(
        "what was made since then is in no record: 'sypctl sweep' finds it. What was destroyed since then is taken for missing and \
         made again: 'sypctl down' it. Access, tokens and budgets are those of then. Only one engine may have this store",
    );
    Ok(exit::OK)
}

fn stage(dir: &Path, from: impl io::Read, former: &str) -> Result<Header, Failure> {
    let bad = |e: anyhow::Error| {
        Failure::new(
            exit::USAGE,
            "BACKUP_BROKEN",
            format!("this is no whole backup: {e:#}"),
            "nothing was changed; use another one",
        )
    };
    let mut reader = Reader::new(from).map_err(bad)?;
    let header = match reader.next().map_err(bad)? {
        Some(Part::Header(h)) => h,
        _ => return Err(bad(anyhow::anyhow!("it has no header"))),
    };
    if header.backup_format > BACKUP_FORMAT || header.store_format > FORMAT {
        return Err(Failure::new(
            exit::USAGE,
            "UNSUPPORTED_VERSION",
            format!("the backup was made by version {}, whose store this version can't read", header.version),
            "nothing was changed; restore it with that version of sypctl or a newer one",
        ));
    }
    let staging = Staging::new(dir)?;
    while let Some(part) = reader.next().map_err(bad)? {
        match part {
            Part::Batch(b) => staging.apply(b)?,
            Part::File(f) => staging.file(&f.name, &f.content).map_err(bad)?,
            Part::Header(_) | Part::End(_) => return Err(bad(anyhow::anyhow!("it has two headers"))),
        }
    }
    staging.complete(former)?;
    Ok(header)
}
