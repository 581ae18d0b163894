//! What the API has a place for and this version does not do: it says so.
use super::{Api, status::refuse};
use syp_proto::v1::{self, secrets_server::Secrets};
use tonic::{Code, Request, Response, Status, async_trait};

pub(super) fn later(what: &str) -> Status {
    refuse(
        Code::Unimplemented,
        "NOT_SUPPORTED",
        format!("{what} is not part of this version"),
        "see the CHANGELOG for what is",
    )
}

#[async_trait]
impl Secrets for Api {
    async fn create_secret(
        &self,
        _: Request<v1::CreateSecretRequest>,
    ) -> Result<Response<v1::Secret>, Status> {
        Err(later("a secret store"))
    }

    async fn add_secret_version(
        &self,
        _: Request<v1::AddSecretVersionRequest>,
    ) -> Result<Response<v1::SecretVersion>, Status> {
        Err(later("a secret store"))
    }

    async fn get_secret(&self, _: Request<v1::GetSecretRequest>) -> Result<Response<v1::Secret>, Status> {
        Err(later("a secret store"))
    }

    async fn list_secrets(
        &self,
        _: Request<v1::ListSecretsRequest>,
    ) -> Result<Response<v1::ListSecretsResponse>, Status> {
        Err(later("a secret store"))
    }

    async fn delete_secret(&self, _: Request<v1::DeleteSecretRequest>) -> Result<Response<()>, Status> {
        Err(later("a secret store"))
    }
}
