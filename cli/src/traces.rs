//! Operations as traces, sent by OTLP when the usual `OTEL_*` variables ask for it: one trace for each operation, a span for each
//! step, made of what the journal says. So a trace is whole also when the engine was restarted in the middle.
//!
//! The trace id follows from the operation's name. Sampling is left to the collector: operations are few.
use anyhow::{Context as _, bail};
use hyper_rustls::HttpsConnectorBuilder;
use opentelemetry::{
    InstrumentationScope, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{SpanContext, SpanKind, Status, TraceState},
};
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_otlp::{SpanExporter, WithHttpConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{SpanData, SpanExporter as _},
};
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use syp_engine::engine::Engine;
use syp_proto::{
    google::longrunning::{Operation, operation},
    journal::Instance,
    v1::{OperationMetadata, operation_metadata::StepState},
};
use tonic::transport::ClientTlsConfig;

/// A collector has so long for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Tells the collector that the environment names of every operation that ends; without one, nobody.
///
/// # Errors
/// Variables that can't be followed.
pub fn follow(engine: &Engine) -> anyhow::Result<()> {
    let Some(protocol) = wanted(|name| std::env::var(name).ok().filter(|v| !v.is_empty()))? else {
        return Ok(());
    };
    let mut exporter = exporter(protocol)?;
    let resource =
        Resource::builder().with_attribute(KeyValue::new("service.version", crate::client::VERSION));
    let named = std::env::var_os("OTEL_SERVICE_NAME").is_some();
    let resource = if named { resource } else { resource.with_service_name("sypctl") };
    exporter.set_resource(&resource.build());
    let mut ended = engine.ended_operations();
    tokio::spawn(async move {
        while let Some((i, operation)) = ended.recv().await {
            let spans = spans(&i, &operation);
            if let Err(error) = exporter.export(spans).await {
                tracing::warn!(%error, operation = operation.name, "the collector did not take a trace");
            }
        }
    });
    Ok(())
}

/// How to speak to the collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Grpc,
    Http,
}

/// Traces are sent when an endpoint is named, or `OTEL_TRACES_EXPORTER=otlp`.
fn wanted(variable: impl Fn(&str) -> Option<String>) -> anyhow::Result<Option<Protocol>> {
    let endpoint =
        variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(|| variable("OTEL_EXPORTER_OTLP_ENDPOINT"));
    let off = variable("OTEL_SDK_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true"));
    let on = match variable("OTEL_TRACES_EXPORTER").as_deref() {
        None => endpoint.is_some(),
        Some("otlp") => true,
        Some("none") => false,
        Some(other) => bail!("OTEL_TRACES_EXPORTER={other}: 'otlp' and 'none' are known"),
    };
    if off || !on {
        return Ok(None);
    }
    let protocol =
        variable("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL").or_else(|| variable("OTEL_EXPORTER_OTLP_PROTOCOL"));
    match protocol.as_deref() {
        None | Some("http/protobuf") => Ok(Some(Protocol::Http)),
        Some("grpc") => Ok(Some(Protocol::Grpc)),
        Some(other) => bail!("OTEL_EXPORTER_OTLP_PROTOCOL={other}: 'http/protobuf' and 'grpc' are known"),
    }
}

/// Endpoint, headers and limits are read from the environment by the exporter itself.
fn exporter(p: Protocol) -> anyhow::Result<SpanExporter> {
    let built = match p {
        Protocol::Grpc => SpanExporter::builder()
            .with_tonic()
            .with_tls_config(ClientTlsConfig::new().with_native_roots())
            .build(),
        Protocol::Http => {
            let connector = HttpsConnectorBuilder::new().with_native_roots();
            let connector = connector.context("the system's certificate authorities")?;
            let client = HyperClient::new(connector.https_or_http().enable_http1().build(), PATIENCE, None);
            SpanExporter::builder().with_http().with_http_client(client).build()
        }
    };
    built.context("traces can't be sent as the OTEL_* variables say")
}

/// The operation, and its steps below it.
fn spans(i: &Instance, o: &Operation) -> Vec<SpanData> {
    let Some(m) = o.metadata.as_ref().and_then(|m| OperationMetadata::decode(&*m.value).ok()) else {
        return vec![];
    };
    let digest = |text: &str| Sha256::digest(text.as_bytes());
    let mut trace = [0; 16];
    trace.copy_from_slice(&digest(&o.name)[..16]);
    let span_id = |step: &str| {
        let mut id = [0; 8];
        id.copy_from_slice(&digest(&format!("{}|{step}", o.name))[..8]);
        SpanId::from_bytes(id)
    };
    let span = |name: String, step: &str, from: SystemTime, to: SystemTime| SpanData {
        span_context: SpanContext::new(
            TraceId::from_bytes(trace),
            span_id(step),
            TraceFlags::SAMPLED,
            false,
            TraceState::NONE,
        ),
        parent_span_id: if step.is_empty() { SpanId::INVALID } else { span_id("") },
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name: name.into(),
        start_time: from,
        end_time: to.max(from),
        attributes: vec![],
        dropped_attributes_count: 0,
        events: Default::default(),
        links: Default::default(),
        status: Status::Unset,
        instrumentation_scope: InstrumentationScope::builder("syp.operations").build(),
    };
    let (Some(from), Some(to)) = (time(m.create_time.as_ref()), time(m.end_time.as_ref())) else {
        return vec![];
    };
    let mut root = span(format!("operation {}", m.verb), "", from, to);
    root.attributes = vec![
        KeyValue::new("syp.operation", o.name.clone()),
        KeyValue::new("syp.instance", m.target.clone()),
        KeyValue::new("syp.instance.uid", i.uid.clone()),
        KeyValue::new("syp.actor", m.actor.clone()),
        KeyValue::new("syp.state.from", m.from_state.clone()),
        KeyValue::new("syp.state.to", m.to_state.clone()),
    ];
    root.status = match &o.result {
        Some(operation::Result::Error(s)) => Status::error(s.message.clone()),
        _ => Status::Ok,
    };
    let mut all = vec![root];
    for s in &m.steps {
        let Some(begun) = time(s.start_time.as_ref()) else { continue };
        // one that was cut off ended with its operation
        let mut one = span(s.id.clone(), &s.id, begun, time(s.end_time.as_ref()).unwrap_or(to));
        one.attributes = vec![
            KeyValue::new("syp.step", s.id.clone()),
            KeyValue::new("syp.attempts", i64::from(s.attempt)),
        ];
        one.status = match (s.state(), &s.last_error) {
            (StepState::Failed, e) => {
                Status::error(e.as_ref().map_or_else(String::new, |e| e.message.clone()))
            }
            (StepState::Succeeded | StepState::Compensated, _) => Status::Ok,
            _ => Status::Unset,
        };
        all.push(one);
    }
    all
}

fn time(t: Option<&prost_types::Timestamp>) -> Option<SystemTime> {
    let t = t?;
    let (seconds, nanos) = (u64::try_from(t.seconds).ok()?, u32::try_from(t.nanos).ok()?);
    UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;
    use syp_proto::{google::rpc, v1::operation_metadata::Step};

    fn at(seconds: i64) -> Option<prost_types::Timestamp> {
        Some(prost_types::Timestamp { seconds, nanos: 500 })
    }

    #[test]
    fn an_operation_is_a_trace_and_its_steps_are_spans_with_their_own_ends() {
        let step = |id: &str, state: StepState, start, end| Step {
            id: id.into(),
            state: state as i32,
            attempt: 2,
            start_time: start,
            end_time: end,
            ..Default::default()
        };
        let mut failed = step("app-0", StepState::Failed, at(12), at(15));
        failed.last_error = Some(rpc::Status { message: "no such image".into(), ..Default::default() });
        let m = OperationMetadata {
            verb: "up".into(),
            target: "projects/default/instances/shop".into(),
            create_time: at(10),
            end_time: at(20),
            steps: vec![
                step("network", StepState::Succeeded, at(10), at(11)),
                failed,
                step("gate", StepState::Running, at(15), None),
                step("probe", StepState::Skipped, None, None),
            ],
            ..Default::default()
        };
        let error = rpc::Status { message: "it failed".into(), ..Default::default() };
        let o = Operation {
            name: "operations/0af3-1".into(),
            metadata: Some(prost_types::Any { value: m.encode_to_vec(), ..Default::default() }),
            done: true,
            result: Some(operation::Result::Error(error)),
        };
        let all = spans(&Instance::default(), &o);
        let names: Vec<_> = all.iter().map(|s| s.name.as_ref()).collect();
        assert_eq!(names, ["operation up", "network", "app-0", "gate"]);
        assert_eq!(all[0].status, Status::error("it failed"));
        assert_eq!((&all[1].status, &all[2].status), (&Status::Ok, &Status::error("no such image")));
        let took = |n: usize| all[n].end_time.duration_since(all[n].start_time).unwrap().as_secs();
        assert_eq!((took(0), took(2), took(3)), (10, 3, 5));
        let trace = all[0].span_context.trace_id();
        assert!(all.iter().all(|s| s.span_context.trace_id() == trace && trace != TraceId::INVALID));
        assert!(all[1..].iter().all(|s| s.parent_span_id == all[0].span_context.span_id()));
        assert_eq!(all[0].parent_span_id, SpanId::INVALID);
        assert_eq!(
            spans(&Instance::default(), &o)[1].span_context,
            all[1].span_context,
            "the same each time"
        );
    }

    #[test]
    fn the_usual_variables_decide() {
        let with = |vars: &'static [(&str, &str)]| {
            wanted(|n| vars.iter().find(|(k, _)| *k == n).map(|(_, v)| (*v).to_owned()))
        };
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://x:4318");
        assert_eq!(with(&[]).unwrap(), None);
        assert_eq!(wanted(|n| (n == endpoint.0).then(|| endpoint.1.into())).unwrap(), Some(Protocol::Http));
        assert_eq!(with(&[("OTEL_TRACES_EXPORTER", "otlp")]).unwrap(), Some(Protocol::Http));
        let grpc = &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://x"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")];
        assert_eq!(with(grpc).unwrap(), Some(Protocol::Grpc));
        let off = &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://x"), ("OTEL_SDK_DISABLED", "true")];
        assert_eq!(with(off).unwrap(), None);
        let none = &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://x"), ("OTEL_TRACES_EXPORTER", "none")];
        assert_eq!(with(none).unwrap(), None);
        let wrong = with(&[("OTEL_TRACES_EXPORTER", "zipkin")]).unwrap_err().to_string();
        assert!(wrong.contains("zipkin"), "{wrong}");
    }
}
