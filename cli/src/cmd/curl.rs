//! `sypctl curl`: one request to an instance with the caller's token.
use super::{Ctx, get, token};
use crate::{
    exit,
    failure::{Done, Failure},
    http::{self, Trust},
    login, parse,
};
use ::http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use clap::Parser;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use std::io::{Read as _, Write as _};
use syp_proto::v1::instance::State;

/// The flags of curl that are known.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Flags {
    /// The method [default: GET, POST with a body]
    #[arg(short = 'X', long, value_name = "METHOD")]
    request: Option<Method>,
    /// A header
    #[arg(short = 'H', long, value_parser = header_line, value_name = "NAME: VALUE")]
    header: Vec<(HeaderName, HeaderValue)>,
    /// A body; @FILE reads a file, @- stdin
    #[arg(short = 'd', long, value_name = "DATA", allow_hyphen_values = true)]
    data: Option<String>,
    /// Print the head of the answer too
    #[arg(short, long)]
    include: bool,
}

#[derive(Parser)]
#[command(no_binary_name = true, name = "sypctl curl NAME [PATH] --", disable_help_flag = true)]
struct Extra {
    #[command(flatten)]
    flags: Flags,
}

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sypctl curl shop /
  sypctl curl shop /items -X POST -H 'content-type: application/json' -d '{\"n\":1}' -i
  sypctl curl shop / --as user:bob@example.com

The body goes to stdout. An answer that is not 2xx is exit code 1.")]
pub struct Args {
    /// Name
    #[arg(value_parser = parse::name)]
    name: String,
    /// Path
    #[arg(value_parser = parse::path, default_value = "/", value_name = "PATH")]
    path: String,
    /// Flags of curl
    #[command(flatten)]
    flags: Flags,
    /// Who calls
    #[command(flatten)]
    who: token::As,
    /// More flags of curl
    #[arg(last = true, value_name = "CURL FLAGS")]
    extra: Vec<String>,
}

fn header_line(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (k, v) = text.split_once(':').ok_or("a header is NAME: VALUE")?;
    let name = k.trim().parse::<HeaderName>().map_err(|e| e.to_string())?;
    Ok((name, v.trim().parse::<HeaderValue>().map_err(|e| e.to_string())?))
}

// === impl Flags ===

impl Flags {
    fn and(mut self, other: Self) -> Self {
        self.header.extend(other.header);
        Self {
            request: other.request.or(self.request),
            header: self.header,
            data: other.data.or(self.data),
            include: self.include || other.include,
        }
    }

    fn body(&self) -> Result<Bytes, Failure> {
        Ok(match self.data.as_deref().map(|d| (d, d.strip_prefix('@'))) {
            None => Bytes::new(),
            Some((_, Some("-"))) => {
                let mut all = Vec::new();
                std::io::stdin().read_to_end(&mut all)?;
                all.into()
            }
            Some((_, Some(file))) => {
                std::fs::read(file).map_err(|e| Failure::usage(format!("-d @{file}: {e}")))?.into()
            }
            Some((text, None)) => Bytes::copy_from_slice(text.as_bytes()),
        })
    }

    fn request(&self, uri: Uri, token: &str) -> Result<Request<Full<Bytes>>, Failure> {
        let default = if self.data.is_some() { Method::POST } else { Method::GET };
        let mut r = Request::new(Full::new(self.body()?));
        *r.method_mut() = self.request.clone().unwrap_or(default);
        *r.uri_mut() = uri;
        let h = r.headers_mut();
        let bearer = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| Failure::usage("the token can't be sent in a header"))?;
        h.insert(header::AUTHORIZATION, bearer);
        h.insert(header::USER_AGENT, HeaderValue::from_static(concat!("sypctl/", env!("CARGO_PKG_VERSION"))));
        h.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        if self.data.is_some() {
            h.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        }
        for (k, v) in &self.header {
            h.insert(k, v.clone());
        }
        Ok(r)
    }
}

/// Runs it.
///
/// # Errors
/// What the engine said; 11 when nobody answers at the endpoint.
pub async fn run(ctx: &Ctx<'_>, a: Args) -> Done {
    let extra = Extra::try_parse_from(&a.extra)
        .map_err(|e| Failure::usage(e.render().to_string().trim_end().to_owned()))?;
    let flags = a.flags.and(extra.flags);
    let client = ctx.client().await?;
    let i = get(&client, ctx.full(&a.name)).await?;
    if i.endpoint.is_empty() || i.state() == State::Destroyed {
        return Err(Failure::new(
            exit::NOT_ALLOWED,
            "NOT_SERVING",
            format!("{} has no endpoint: it is {}", a.name, crate::render::state(i.state).to_lowercase()),
            format!("sypctl show {}", a.name),
        ));
    }
    let t = token::issue(ctx, &client, &a.name, &a.who, None).await?;
    let uri: Uri = format!("{}{}", i.endpoint.trim_end_matches('/'), a.path)
        .parse()
        .map_err(|e| Failure::usage(format!("'{}' can't be asked for: {e}", a.path)))?;
    let request = flags.request(uri, &t.token)?;
    let trust = match (ctx.global.ca_file.as_deref(), i.endpoint_ca.as_str()) {
        (None, pem) if !pem.is_empty() => Trust::Endpoint(pem),
        (file, _) => Trust::of(file),
    };
    let http = http::client(trust)?;
    let answer = http.request(request);
    let answer = match ctx.global.timeout {
        Some(limit) => tokio::time::timeout(limit, answer).await.map_err(|_| {
            Failure::new(
                exit::TIMED_OUT,
                "DEADLINE_EXCEEDED",
                "no answer in time",
                "give it more time with --timeout",
            )
        })?,
        None => answer.await,
    };
    let answer = answer.map_err(|e| {
        Failure::new(
            exit::UNAVAILABLE,
            "ENDPOINT_UNREACHABLE",
            format!("{}: {}", i.endpoint, login::chain(&e)),
            format!("sypctl show {}", a.name),
        )
    })?;
    print(ctx, &a.name, answer, flags.include).await
}

async fn print(ctx: &Ctx<'_>, name: &str, answer: Response<Incoming>, include: bool) -> Done {
    let status = answer.status();
    let (parts, mut body) = answer.into_parts();
    let mut out = std::io::stdout().lock();
    if include {
        write!(out, "{:?} {status}\r\n", parts.version)?;
        for (k, v) in &parts.headers {
            write!(out, "{k}: {}\r\n", String::from_utf8_lossy(v.as_bytes()))?;
        }
        write!(out, "\r\n")?;
    }
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| {
            let hint = format!("'sypctl logs {name}' shows what the app says");
            Failure::new(
                exit::FAILED,
                "UPSTREAM_BROKE_OFF",
                format!("the answer broke off: {}", login::chain(&e)),
                hint,
            )
        })?;
        if let Some(bytes) = frame.data_ref() {
            out.write_all(bytes)?;
            out.flush()?;
        }
    }
    if status.is_success() {
        return Ok(exit::OK);
    }
    // the app may say 403 too: then its own words are above
    let why = match status {
        StatusCode::FORBIDDEN => format!(
            "; if it was the gate: 'sypctl access show {name}' says who gets in, '--as MEMBER' calls as somebody else"
        ),
        _ => String::new(),
    };
    ctx.out.note(format!("HTTP {status}{why}"));
    Ok(exit::FAILED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_may_stand_before_and_behind_the_dashes() {
        let e = Extra::try_parse_from(["-X", "PUT", "-H", "a: b", "-d", "x", "-i"]).unwrap().flags;
        let before = Flags { header: vec![header_line("c: d").unwrap()], ..Default::default() };
        let f = before.and(e);
        let r = f.request("http://127.0.0.1/x".parse().unwrap(), "t.o.k").unwrap();
        assert_eq!(
            (r.method().as_str(), r.headers()["a"].as_bytes(), r.headers()["c"].as_bytes()),
            ("PUT", &b"b"[..], &b"d"[..])
        );
        assert_eq!(r.headers()["authorization"], "Bearer t.o.k");
        assert!(f.include && Extra::try_parse_from(["--nope"]).is_err());
        assert!(header_line("no colon").is_err());
    }
}
