//! `sypctl graph`: the states and the steps of the running operation.
use super::Ctx;
use crate::{exit, failure::Done, parse, render};
use std::{collections::BTreeSet, fmt::Write as _};
use syp_proto::v1::{
    GetStateGraphRequest, StateGraph, instances_client::InstancesClient, state_graph::StepNode,
};

/// How it is drawn.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Drawing {
    /// Lines for people
    Text,
    /// Graphviz
    Dot,
    /// Mermaid
    Mermaid,
}

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sypctl graph shop\n  sypctl graph shop --format dot | dot -Tsvg > shop.svg"
)]
pub struct Args {
    /// Name, perhaps with @uid
    #[arg(value_parser = parse::name)]
    name: String,
    /// How it is drawn
    #[arg(long, value_enum, default_value = "text")]
    format: Drawing,
}

/// Runs it.
///
/// # Errors
/// What the engine said.
pub async fn run(ctx: &Ctx<'_>, a: Args) -> Done {
    let client = ctx.client().await?;
    let ask = GetStateGraphRequest { name: ctx.full(&a.name) };
    let g =
        client.call(ask, |ch, r| async move { InstancesClient::new(ch).get_state_graph(r).await }).await?;
    let drawn = || match a.format {
        Drawing::Text => text(&g),
        Drawing::Dot => dot(&g),
        Drawing::Mermaid => mermaid(&g),
    };
    ctx.out.document(&g, drawn, || render::state(g.current).to_owned())?;
    Ok(exit::OK)
}

fn label(s: &StepNode) -> String {
    let took = s.took.as_ref().map_or_else(String::new, |d| format!(" {}", render::latency(Some(d))));
    format!("{} {}{took}", s.id, s.state().as_str_name().to_lowercase())
}

/// An edge is drawn once, however many triggers it has.
fn edges(g: &StateGraph) -> Vec<(i32, i32)> {
    let mut seen = BTreeSet::new();
    g.edges.iter().map(|e| (e.from, e.to)).filter(|e| seen.insert(*e)).collect()
}

fn text(g: &StateGraph) -> String {
    let mut out = format!("State: {}\n", render::state(g.current));
    for (from, to) in edges(g) {
        let here = if from == g.current { "*" } else { " " };
        let _ = writeln!(out, "{here} {} -> {}", render::state(from), render::state(to));
    }
    if !g.steps.is_empty() {
        out.push_str("Steps:\n");
    }
    for s in &g.steps {
        let after = if s.depends_on.is_empty() {
            String::new()
        } else {
            format!("  after {}", s.depends_on.join(", "))
        };
        let _ = writeln!(out, "  {}{after}", label(s));
    }
    out
}

fn dot(g: &StateGraph) -> String {
    let mut out = String::from("digraph instance {\n  rankdir=LR;\n");
    let _ = writeln!(out, "  \"{}\" [style=bold];", render::state(g.current));
    for (from, to) in edges(g) {
        let _ = writeln!(out, "  \"{}\" -> \"{}\";", render::state(from), render::state(to));
    }
    out.push_str("  subgraph cluster_steps {\n    label=steps;\n");
    for s in &g.steps {
        let _ = writeln!(out, "    \"step {}\" [label=\"{}\", shape=box];", s.id, label(s));
        for d in &s.depends_on {
            let _ = writeln!(out, "    \"step {d}\" -> \"step {}\";", s.id);
        }
    }
    out.push_str("  }\n}");
    out
}

fn mermaid(g: &StateGraph) -> String {
    let mut out = String::from("flowchart LR\n");
    for (from, to) in edges(g) {
        let _ = writeln!(out, "  {} --> {}", render::state(from), render::state(to));
    }
    let _ = writeln!(out, "  style {} stroke-width:3px", render::state(g.current));
    let number = |id: &str| g.steps.iter().position(|s| s.id == id).unwrap_or(0);
    for (n, s) in g.steps.iter().enumerate() {
        let _ = writeln!(out, "  s{n}[\"{}\"]", label(s));
        for d in &s.depends_on {
            let _ = writeln!(out, "  s{} --> s{n}", number(d));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use syp_proto::v1::state_graph::Edge;

    #[test]
    fn the_same_graph_in_three_drawings() {
        let step = |id: &str, on: &[&str]| StepNode {
            id: id.into(),
            depends_on: on.iter().map(|s| (*s).to_owned()).collect(),
            state: 4,
            ..Default::default()
        };
        let g = StateGraph {
            // the same way for two reasons, with another between them
            edges: [(1, 2), (2, 3), (1, 2)].map(|(from, to)| Edge { from, to, min_role: 0 }).to_vec(),
            steps: vec![step("network", &[]), step("app-0", &["network"])],
            current: 1,
        };
        assert_eq!(
            text(&g),
            "State: PENDING\n* PENDING -> PROVISIONING\n  PROVISIONING -> SERVING\nSteps:\n  network succeeded\n  app-0 succeeded  after network\n"
        );
        assert_eq!(dot(&g).matches("\"PENDING\" -> \"PROVISIONING\";").count(), 1);
        assert_eq!(mermaid(&g).matches("PENDING --> PROVISIONING").count(), 1);
        assert!(dot(&g).contains("\"step network\" -> \"step app-0\";"));
        assert!(mermaid(&g).contains("PENDING --> PROVISIONING") && mermaid(&g).contains("s0 --> s1"));
    }
}
