//! Who we are for an engine, and whether its identity providers can be reached.
use super::{Check, Verdict, check, ok};
use crate::{
    client::{now_s, token_given},
    cmd::Ctx,
    login::Login,
};
use std::{path::Path, time::Duration};
use syp_auth::fetch::Fetcher;

const LIMIT: Duration = Duration::from_secs(5);

pub(super) async fn checks(ctx: &Ctx<'_>, dir: &Path) -> Vec<Check> {
    let mut all = vec![token(dir)];
    if let Some(server) = ctx.global.server.as_deref().filter(|s| !s.is_empty()) {
        all.push(address(server));
    }
    all.extend(proxy());
    if let Some(login) = Login::load(dir) {
        all.push(issuer(&login.issuer).await);
    }
    all
}

/// The token of calls to a server.
fn token(dir: &Path) -> Check {
    if let Some(t) = token_given() {
        if syp_auth::machine::is_machine(&t) {
            return ok("token", "a machine token in SYPCTL_TOKEN");
        }
        return match ends(&t) {
            None => check(
                "token",
                Verdict::Fail,
                "SYPCTL_TOKEN is neither a JWT nor a machine token",
                "unset it, or put a whole token into it",
            ),
            Some(end) if end <= now_s() => check(
                "token",
                Verdict::Fail,
                format!("the one in SYPCTL_TOKEN ended {} s ago", now_s() - end),
                "unset it, or get a new one from your provider",
            ),
            Some(_) => ok("token", "a JWT in SYPCTL_TOKEN"),
        };
    }
    match Login::load(dir) {
        None => {
            ok("token", "the local engine's own; a server with an identity provider needs 'sypctl login'")
        }
        Some(l) if l.expires <= now_s() && !l.can_renew() => check(
            "token",
            Verdict::Warn,
            format!("the login at {} has ended", l.issuer),
            "'sypctl login' again",
        ),
        Some(l) => ok("token", format!("logged in at {}", l.issuer)),
    }
}

/// The end of a JWT; nothing is verified, the server does that.
fn ends(token: &str) -> Option<i64> {
    use base64::Engine as _;
    let payload = token.split('.').nth(1)?;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).ok()?;
    serde_json::from_slice::<serde_json::Value>(&bytes).ok()?["exp"].as_i64()
}

fn address(server: &str) -> Check {
    let secure = server.starts_with("https://");
    let loopback =
        ["http://127.0.0.1", "http://localhost", "http://[::1]"].iter().any(|p| server.starts_with(p));
    if secure || loopback {
        return ok("server", server.to_owned());
    }
    check(
        "server",
        Verdict::Fail,
        format!("{server} is no https:// address"),
        "tokens must not cross a network in clear: https://host:port, or leave SYPCTL_SERVER away for the local engine",
    )
}

/// The engine and its issuers are asked through the proxies of the environment.
fn proxy() -> Option<Check> {
    let set = |names: [&str; 2]| names.iter().find_map(|n| std::env::var(n).ok().filter(|v| !v.is_empty()));
    let proxy = set(["HTTPS_PROXY", "https_proxy"]).or_else(|| set(["HTTP_PROXY", "http_proxy"]))?;
    let spared = set(["NO_PROXY", "no_proxy"]).unwrap_or_default();
    let all =
        spared.split(',').map(str::trim).any(|h| h == "*" || h.starts_with("127.0.0.1") || h == "localhost");
    Some(if all {
        ok("proxy", proxy)
    } else {
        check(
            "proxy",
            Verdict::Warn,
            format!("{proxy} is used for all hosts, this one included"),
            "set NO_PROXY=127.0.0.1,localhost, then 'sypctl server stop'",
        )
    })
}

/// Discovery, as the engine does it.
pub(super) async fn issuer(url: &str) -> Check {
    let next = "the provider must be reachable from here by name and with a certificate that is trusted; until then last good keys count";
    let at = format!("{}/.well-known/openid-configuration", url.trim_end_matches('/'));
    let found = async { Fetcher::new(LIMIT, None)?.json(&at).await };
    match found.await {
        Err(e) => {
            let mut words = e.to_string();
            let mut cause = std::error::Error::source(&e);
            while let Some(c) = cause {
                words = format!("{words}: {c}");
                cause = c.source();
            }
            check("issuer", Verdict::Fail, format!("{url}: {words}"), next)
        }
        Ok(v) if v["issuer"].as_str() != Some(url) => check(
            "issuer",
            Verdict::Fail,
            format!("{url} calls itself {}", v["issuer"]),
            "use exactly the name that it calls itself: tokens carry that one",
        ),
        Ok(_) => ok("issuer", url.to_owned()),
    }
}
