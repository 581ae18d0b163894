//! `sypctl login`, `logout`: the OAuth 2.0 device flow (RFC 8628).
use super::Ctx;
use crate::{
    exit,
    failure::{Done, Failure},
    http,
    login::{self, Login, Tokens, device_client, discover},
    paths,
};
use oauth2::{HttpRequest, Scope, StandardDeviceAuthorizationResponse};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sypctl login --issuer https://login.example.com --server https://syp.example.com:7443
  sypctl login --issuer https://login.example.com --client-id sypctl --audience syp-api

Shows an address and a code to enter there. The token is kept in login.json in the data directory, for your eyes only.")]
pub struct Args {
    /// The identity provider, as its discovery document calls it
    #[arg(long, value_name = "URL")]
    issuer: String,
    /// Our client there
    #[arg(long, default_value = "sypctl", value_name = "ID")]
    client_id: String,
    /// The audience of the token
    #[arg(long, value_name = "NAME")]
    audience: Option<String>,
    /// Scopes to ask for
    #[arg(long, default_value = "openid email profile groups offline_access", value_name = "SCOPES")]
    scope: String,
    /// The device flow (the only one so far)
    #[arg(long)]
    device: bool,
}

/// Runs it.
///
/// # Errors
/// When the provider does not let us in.
pub async fn run(ctx: &Ctx<'_>, a: Args) -> Done {
    let ca = ctx.global.ca_file.as_deref();
    let provider = discover(&a.issuer, ca).await?;
    let client = device_client(&provider, &a.client_id)?;
    let http = http::client(ca)?;
    let send = |r: HttpRequest| login::send(http.clone(), r);
    let refused = |e: &dyn std::error::Error| {
        Failure::new(
            exit::UNAUTHENTICATED,
            "LOGIN_FAILED",
            format!("{}: {}", a.issuer, login::chain(e)),
            "check --client-id and --scope at the provider",
        )
    };
    let mut ask = client.exchange_device_code();
    for s in a.scope.split_whitespace() {
        ask = ask.add_scope(Scope::new(s.to_owned()));
    }
    if let Some(aud) = &a.audience {
        ask = ask.add_extra_param(login::audience_parameter(aud), aud.clone());
    }
    let device: StandardDeviceAuthorizationResponse =
        ask.request_async(&send).await.map_err(|e| refused(&e))?;
    // this is what the command is for: it is said even with -q
    eprintln!("Open {} and enter {}", **device.verification_uri(), device.user_code().secret());
    if let Some(direct) = device.verification_uri_complete() {
        eprintln!("or open  {}", direct.secret());
    }
    let wait = client.exchange_device_access_token(&device).request_async(
        &send,
        tokio::time::sleep,
        ctx.global.timeout,
    );
    let tokens: Tokens = tokio::select! {
        t = wait => t.map_err(|e| refused(&e))?,
        _ = tokio::signal::ctrl_c() => return Err(Failure::new(exit::INTERRUPTED, "INTERRUPTED", "not logged in", "")),
    };
    let l = Login::of(&tokens, &provider, &a.client_id, a.audience.clone());
    l.save(&paths::data_dir(ctx.global.data_dir.as_deref())?)?;
    ctx.out.note(format!("logged in at {}", l.issuer));
    Ok(exit::OK)
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
