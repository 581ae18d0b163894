//! A server of another version: `sypctl` says who is newer and what to do, and works on.
use anyhow::{Context, Result, ensure};
use futures_util::stream::BoxStream;
use std::process::Command;
use syp_proto::v1::{
    BackupChunk, BackupStoreRequest, CheckStoreRequest, CheckStoreResponse, GetServerInfoRequest, ServerInfo,
    ShutdownServerRequest,
    server_server::{Server, ServerServer},
};
use tonic::{Request, Response, Status, async_trait};

/// Says that it is of some version, and nothing else.
struct Other(&'static str);

#[async_trait]
impl Server for Other {
    async fn get_server_info(
        &self,
        _: Request<GetServerInfoRequest>,
    ) -> Result<Response<ServerInfo>, Status> {
        let mut r = Response::new(ServerInfo { version: self.0.into(), ..Default::default() });
        let version = self.0.parse().map_err(|_| Status::internal("version"))?;
        r.metadata_mut().insert("syp-server-version", version);
        Ok(r)
    }

    async fn shutdown_server(&self, _: Request<ShutdownServerRequest>) -> Result<Response<()>, Status> {
        Err(Status::unimplemented(""))
    }

    type BackupStoreStream = BoxStream<'static, Result<BackupChunk, Status>>;

    async fn backup_store(
        &self,
        _: Request<BackupStoreRequest>,
    ) -> Result<Response<Self::BackupStoreStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn check_store(
        &self,
        _: Request<CheckStoreRequest>,
    ) -> Result<Response<CheckStoreResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_and_an_older_server_are_named_with_what_to_do() -> Result<()> {
    let Some(sypctl) = syp_tests::product::binary() else { return Ok(()) };
    for (version, words) in
        [("99.0.0", "upgrade sypctl"), ("0.0.1", "upgrade the server"), (syp_engine::api::VERSION, "")]
    {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let at = format!("http://{}", listener.local_addr()?);
        let stream = futures_util::stream::unfold(listener, |l| async {
            let one = l.accept().await.map(|(s, _)| s);
            Some((one, l))
        });
        let service = ServerServer::new(Other(version));
        let server = tokio::spawn(
            tonic::transport::Server::builder().add_service(service).serve_with_incoming(stream),
        );
        let dir = tempfile::tempdir()?;
        let (command, data) = (sypctl.clone(), dir.path().to_owned());
        let said = tokio::task::spawn_blocking(move || {
            Command::new(command)
                .args(["--server", &at, "server", "status"])
                .env("SYPCTL_TOKEN", "a-token")
                .env("SYP_DATA_DIR", data)
                .output()
        });
        let said = said.await?.context("sypctl")?;
        server.abort();
        let err = String::from_utf8_lossy(&said.stderr);
        ensure!(said.status.success(), "{version}: {err}");
        if words.is_empty() {
            ensure!(!err.contains("newer"), "{version}: {err}");
        } else {
            ensure!(
                err.contains("newer") && err.contains(words) && err.contains(version),
                "{version}: {err}"
            );
        }
    }
    Ok(())
}
