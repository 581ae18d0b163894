//! The gRPC API: handlers translate, [`crate::engine::Engine`] decides.
mod about;
mod access;
mod audit;
pub mod authz;
mod bind;
mod costs;
mod create;
mod ending;
mod history;
pub mod identity;
mod instances;
mod layer;
mod machines;
mod mask;
mod metrics;
mod operations;
mod page;
mod plan;
mod providers;
mod requests;
mod revisions;
pub mod roles;
mod scrape;
mod secrets;
mod series;
mod server;
pub mod status;
mod suppose;
mod tls;
mod tokens;
mod update;
pub mod validate;
mod watch;

pub use about::BACKUP_FORMAT;
pub use server::{Listen, serve};
pub use tls::Tls;

use crate::{
    cell::Cell,
    door,
    engine::Engine,
    error::Error,
    id::{InstanceId, OperationId},
    view,
};
use authz::Authz;
use identity::Identities;
use std::sync::Arc;
use syp_auth::policy::Role;
use syp_proto::{google::longrunning::Operation, journal::Instance, v1};
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Version of the server, told to every client.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What the API is made of.
#[derive(Clone)]
pub struct Api {
    /// The engine.
    pub engine: Engine,
    /// Who may call.
    pub identities: Arc<Identities>,
    /// Currency of figures.
    pub currency: Arc<str>,
    /// Cancelled by `ShutdownServer`.
    pub shutdown: CancellationToken,
    /// For `GetServerInfo`.
    pub about: Arc<About>,
}

/// What the server tells about itself.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// Data directory.
    pub store_path: String,
    /// Where it listens.
    pub listen: String,
    /// When it started.
    pub started_ms: i64,
}

// === impl Api ===

impl Api {
    /// In which currency a target's instances are counted.
    pub(crate) fn currency_of<'a>(&'a self, target: &'a dyn crate::step::Target) -> &'a str {
        target.currency().unwrap_or(&self.currency)
    }

    /// In which currency an instance is counted.
    pub(crate) fn currency_in<'a>(&'a self, i: &'a Instance) -> &'a str {
        i.hourly_rate.as_ref().map_or(&*self.currency, |m| m.currency_code.as_str())
    }

    /// Refuses new rules that no gate could use: of an issuer that nobody configured, or a subject without its issuer.
    pub(crate) fn usable(
        &self,
        field: &str,
        new: &v1::AccessPolicy,
        before: &v1::AccessPolicy,
    ) -> Result<(), Status> {
        let added = new.rules.iter().filter(|r| !before.rules.contains(r)).cloned().collect();
        let names = self.identities.issuers();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let added = v1::AccessPolicy { rules: added, etag: String::new() };
        door::policy(&added).validate_for(&names).map_err(|e| validate::invalid_policy(field, &e))
    }

    /// A live instance, if the caller has `need` on it.
    pub(crate) async fn live(&self, a: &Authz, name: &str, need: Role) -> Result<Arc<Cell>, Status> {
        a.is_about(name);
        let (project, short, uid) = validate::name(name)?;
        let cell = match uid {
            Some(uid) => InstanceId::parse(uid).and_then(|id| self.engine.cell(id)),
            None => self.engine.by_name(project, short),
        };
        let cell = cell.ok_or_else(|| Error::NotFound(name.to_owned()))?;
        a.require_on(&cell.get(), need)?;
        Ok(cell)
    }

    /// An instance, live or destroyed; without uid the newest of that name.
    pub(crate) async fn any(&self, a: &Authz, name: &str, need: Role) -> Result<Arc<Instance>, Status> {
        a.is_about(name);
        let (project, short, uid) = validate::name(name)?;
        if uid.is_none()
            && let Some(cell) = self.engine.by_name(project, short)
        {
            let i = cell.get();
            a.require_on(&i, need)?;
            return Ok(i);
        }
        let store = self.engine.store();
        let ids = store.incarnations(project, short).await.map_err(Error::from)?;
        // a uid may be shortened, as people do
        let id = ids.into_iter().find(|id| uid.is_none_or(|u| id.to_string().starts_with(u)));
        let id = id.ok_or_else(|| Error::NotFound(name.to_owned()))?;
        let i = match self.engine.cell(id) {
            Some(cell) => cell.get(),
            None => {
                Arc::new(view::load_any(&**store, id).await?.ok_or_else(|| Error::NotFound(name.to_owned()))?)
            }
        };
        a.require_on(&i, need)?;
        Ok(i)
    }

    /// An operation by name, whoever asks (callers have checked).
    pub(crate) async fn operation(&self, name: &str) -> Result<Operation, Status> {
        let not_found = || Status::from(Error::NotFound(name.to_owned()));
        let op = OperationId::parse(name).ok_or_else(not_found)?;
        let now = self.engine.clock().now();
        let found = match self.engine.cell(op.instance) {
            Some(cell) => view::operation(&cell.get(), op.run, Some(&cell.waiting), now),
            None => view::load_any(&**self.engine.store(), op.instance)
                .await?
                .and_then(|i| view::operation(&i, op.run, None, now)),
        };
        found.ok_or_else(not_found)
    }

    /// The instance of an operation, if the caller has `need` on it.
    pub(crate) async fn of_operation(
        &self,
        a: &Authz,
        name: &str,
        need: Role,
    ) -> Result<(OperationId, Arc<Instance>), Status> {
        a.is_about(name);
        let not_found = || Status::from(Error::NotFound(name.to_owned()));
        let op = OperationId::parse(name).ok_or_else(not_found)?;
        let i = match self.engine.cell(op.instance) {
            Some(cell) => cell.get(),
            None => {
                Arc::new(view::load_any(&**self.engine.store(), op.instance).await?.ok_or_else(not_found)?)
            }
        };
        a.require_on(&i, need)?;
        Ok((op, i))
    }
}
