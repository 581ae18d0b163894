//! `syp.v1.Server`: the engine about itself.
use super::{Api, VERSION, identity::API_AUDIENCE, watch};
use crate::{clock::timestamp, error::Error, store::FORMAT};
use syp_proto::v1::{self, server_server::Server};
use tonic::{Request, Response, Status, async_trait};

/// What a backup is made of.
pub const BACKUP_FORMAT: u32 = 1;

#[async_trait]
impl Server for Api {
    async fn get_server_info(
        &self,
        _: Request<v1::GetServerInfoRequest>,
    ) -> Result<Response<v1::ServerInfo>, Status> {
        let cells = self.engine.cells();
        let open = cells.iter().filter(|c| c.get().run.is_some()).count();
        let store = self.engine.store();
        Ok(Response::new(v1::ServerInfo {
            version: VERSION.into(),
            store_id: store.store_id().to_string(),
            store_path: self.about.store_path.clone(),
            boot_epoch: i64::try_from(store.boot_epoch()).unwrap_or(i64::MAX),
            start_time: timestamp(self.about.started_ms),
            issuers: self.identities.issuers(),
            local_issuer: self.identities.local_issuer().unwrap_or_default(),
            instances: i32::try_from(cells.len()).unwrap_or(i32::MAX),
            open_operations: i32::try_from(open).unwrap_or(i32::MAX),
            listen: self.about.listen.clone(),
            pid: i64::from(std::process::id()),
            targets: self.engine.targets().map(|t| t.name().to_owned()).collect(),
            api_audience: API_AUDIENCE.into(),
        }))
    }

    async fn shutdown_server(&self, _: Request<v1::ShutdownServerRequest>) -> Result<Response<()>, Status> {
        self.shutdown.cancel();
        Ok(Response::new(()))
    }

    type BackupStoreStream = watch::Stream<v1::BackupChunk>;

    async fn backup_store(
        &self,
        _: Request<v1::BackupStoreRequest>,
    ) -> Result<Response<Self::BackupStoreStream>, Status> {
        use v1::backup_chunk::{Batch, End, Header, Pair, Part};
        let cells = self.engine.cells();
        let mut instances: Vec<_> = cells.iter().map(|c| c.get().name.clone()).collect();
        instances.sort();
        let header = Header {
            backup_format: BACKUP_FORMAT,
            store_format: FORMAT,
            store_id: self.engine.store().store_id().to_string(),
            version: VERSION.into(),
            time: timestamp(self.engine.clock().now()),
            instances,
        };
        let mut parts = self.engine.store().backup();
        let chunk = |part| v1::BackupChunk { part: Some(part) };
        Ok(Response::new(Box::pin(async_stream::try_stream! {
            yield chunk(Part::Header(header));
            let mut batches = 0;
            while let Some(part) = parts.recv().await {
                let pairs = part.map_err(|e| Status::from(Error::from(e)))?;
                batches += 1;
                let pairs = pairs.into_iter().map(|(key, value)| Pair { key, value }).collect();
                yield chunk(Part::Batch(Batch { pairs }));
            }
            yield chunk(Part::End(End { batches, ..Default::default() }));
        })))
    }

    async fn check_store(
        &self,
        _: Request<v1::CheckStoreRequest>,
    ) -> Result<Response<v1::CheckStoreResponse>, Status> {
        let (records, problems) = self.engine.store().fsck().await.map_err(Error::from)?;
        Ok(Response::new(v1::CheckStoreResponse {
            instances: i64::try_from(self.engine.cells().len()).unwrap_or(i64::MAX),
            records: i64::try_from(records).unwrap_or(i64::MAX),
            problems,
        }))
    }
}
