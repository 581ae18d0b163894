//! `sypctl login`, `logout`: the OAuth 2.0 device flow (RFC 8628), or a browser on this machine (RFC 8252 with PKCE).
mod browser;

use super::{Ctx, open::browse};
use crate::{
    channel, exit,
    failure::{Done, Failure, error_info},
    http::{self, Http},
    login::{self, Discovery, Login, Place, Tokens, device_client, discover},
    parse, paths,
};
use oauth2::{HttpRequest, Scope, StandardDeviceAuthorizationResponse};
use prost::Message;
use syp_proto::{
    google::rpc,
    v1::{WhoAmIRequest, access_client::AccessClient},
};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sypctl login --server https://syp.example.com:7443
  sypctl login --server https://syp.example.com:7443 --browser
  sypctl login --issuer https://login.example.com --client-id sypctl --audience syp-api

Shows an address and a code to enter there. The token is kept in login.json in the data directory, for your eyes only.")]
pub struct Args {
    /// The identity provider, as its discovery document calls it [default: the server's]
    #[arg(long, value_parser = parse::issuer, value_name = "URL")]
    issuer: Option<String>,
    /// Our client there
    #[arg(long, default_value = "sypctl", value_name = "ID")]
    client_id: String,
    /// The audience of the token [default: the server's, when it names the issuer]
    #[arg(long, value_name = "NAME")]
    audience: Option<String>,
    /// The audience of tokens for instances [default: as the server says]
    #[arg(long, value_name = "NAME")]
    app_audience: Option<String>,
    /// Scopes to ask for
    #[arg(long, default_value = "openid email profile groups offline_access", value_name = "SCOPES")]
    scope: String,
    /// A code to enter on any device (the default)
    #[arg(long, conflicts_with = "browser")]
    device: bool,
    /// A browser on this machine
    #[arg(long)]
    browser: bool,
}

/// One login: what is asked of whom.
struct Ask<'a> {
    args: &'a Args,
    at: &'a Place,
    provider: &'a Discovery,
    http: Http,
}

/// Runs it.
///
/// # Errors
/// When the provider does not let us in.
pub async fn run(ctx: &Ctx<'_>, a: Args) -> Done {
    let ca = ctx.global.ca_file.as_deref();
    let told = match &a.issuer {
        Some(issuer) => Place { issuer: issuer.clone(), ..Default::default() },
        None => server_says(ctx).await?,
    };
    let at = Place {
        audience: a.audience.clone().or(told.audience),
        app_audience: a.app_audience.clone().or(told.app_audience),
        issuer: told.issuer,
    };
    let provider = discover(&at.issuer, ca).await?;
    let ask = Ask { args: &a, at: &at, provider: &provider, http: http::client(http::Trust::of(ca))? };
    let login = async { if a.browser { browser::login(&ask, ctx).await } else { ask.device(ctx).await } };
    let tokens = tokio::select! {
        t = login => t?,
        _ = tokio::signal::ctrl_c() => return Err(Failure::new(exit::INTERRUPTED, "INTERRUPTED", "not logged in", "")),
    };
    let l = Login::of(&tokens, &provider, &a.client_id, &at);
    l.save(&paths::data_dir(ctx.global.data_dir.as_deref())?)?;
    ctx.out.note(format!("logged in at {}", l.issuer));
    Ok(exit::OK)
}

/// A server tells whoever comes without a token where to get one.
async fn server_says(ctx: &Ctx<'_>) -> Result<Place, Failure> {
    let Some(url) = ctx.global.server.as_deref().filter(|s| !s.is_empty()) else {
        return Err(Failure::usage("where? --server URL of the engine, or --issuer URL of the provider"));
    };
    let channel = channel::remote(url, ctx.global.ca_file.as_deref())?;
    let Err(status) = AccessClient::new(channel).who_am_i(WhoAmIRequest {}).await else {
        return Err(Failure::usage(format!("{url} asks for no token")));
    };
    let told = rpc::Status::decode(status.details()).ok().and_then(|s| error_info(&s));
    let Some(told) = told.filter(|i| i.reason == "TOKEN_MISSING") else { return Err(status.into()) };
    let get = |name: &str| told.metadata.get(name).cloned();
    match get("issuer") {
        Some(issuer) => Ok(Place { issuer, audience: get("audience"), app_audience: get("app_audience") }),
        None => Err(Failure::new(
            exit::FAILED,
            "LOGIN_FAILED",
            format!("{url} trusts no identity provider"),
            "its operator starts it with 'sypctl server run --issuer URL'",
        )),
    }
}

// === impl Ask ===

impl Ask<'_> {
    fn refused(&self, e: &dyn std::error::Error) -> Failure {
        self.failed(&login::chain(e))
    }

    fn failed(&self, why: &str) -> Failure {
        Failure::new(
            exit::UNAUTHENTICATED,
            "LOGIN_FAILED",
            format!("{}: {why}", self.at.issuer),
            "check --client-id, --audience and --scope at the provider",
        )
    }

    fn scopes(&self) -> impl Iterator<Item = Scope> {
        self.args.scope.split_whitespace().map(|s| Scope::new(s.to_owned()))
    }

    /// What we want to be let into: both audiences. A token is for one, so the exchange names the server's alone.
    fn audiences(&self) -> impl Iterator<Item = (&'static str, String)> {
        let both = self.at.audience.iter().chain(&self.at.app_audience);
        both.map(|a| (login::audience_parameter(a), a.clone()))
    }

    /// Providers give a token for renewals only to who was asked, and agreed.
    fn prompt(&self) -> Option<(&'static str, &'static str)> {
        self.args.scope.split_whitespace().any(|s| s == "offline_access").then_some(("prompt", "consent"))
    }

    async fn device(&self, ctx: &Ctx<'_>) -> Result<Tokens, Failure> {
        let client = device_client(self.provider, &self.args.client_id)?;
        let send = |r: HttpRequest| login::send(self.http.clone(), r);
        let mut ask = client.exchange_device_code().add_scopes(self.scopes());
        for (name, value) in self.audiences() {
            ask = ask.add_extra_param(name, value);
        }
        if let Some((name, value)) = self.prompt() {
            ask = ask.add_extra_param(name, value);
        }
        let device: StandardDeviceAuthorizationResponse =
            ask.request_async(&send).await.map_err(|e| self.refused(&e))?;
        // this is what the command is for: it is said even with -q
        eprintln!("Open {} and enter {}", **device.verification_uri(), device.user_code().secret());
        if let Some(direct) = device.verification_uri_complete() {
            eprintln!("or open  {}", direct.secret());
        }
        let mut wait = client.exchange_device_access_token(&device);
        if let Some(a) = &self.at.audience {
            wait = wait.add_extra_param(login::audience_parameter(a), a.clone());
        }
        wait.request_async(&send, tokio::time::sleep, ctx.global.timeout).await.map_err(|e| self.refused(&e))
    }
}

/// Forgets the login.
///
/// # Errors
/// As the file system says.
pub fn logout(ctx: &Ctx<'_>) -> Done {
    let there = Login::forget(&paths::data_dir(ctx.global.data_dir.as_deref())?)?;
    ctx.out.note(if there { "logged out" } else { "there was no login" });
    Ok(exit::OK)
}
