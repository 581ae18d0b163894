//! The network interfaces of tasks.
use super::{
    wire::{Form, Refused, element},
    world::{Shared, Task},
};
use std::fmt::Write as _;

/// Answers `DescribeNetworkInterfaces`: by ids, or by a filter for them.
pub fn describe(shared: &Shared, form: &Form) -> Result<String, Refused> {
    let list = |prefix: &str| -> Vec<String> {
        (1..).map_while(|n| form.get(&format!("{prefix}.{n}")).cloned()).collect()
    };
    let ids = list("NetworkInterfaceId");
    let mut filtered = None;
    for n in (1..).take_while(|n| form.contains_key(&format!("Filter.{n}.Name"))) {
        if form.get(&format!("Filter.{n}.Name")).is_some_and(|name| name == "network-interface-id") {
            filtered = Some(list(&format!("Filter.{n}.Value")));
        }
    }
    shared.see(|w| {
        // an interface goes with its task
        let all: Vec<&Task> =
            w.tasks.values().filter(|t| t.last != "STOPPED" && t.address.is_some()).collect();
        if let Some(id) = ids.iter().find(|id| !all.iter().any(|t| t.interface == **id)) {
            let words = format!("The networkInterface ID '{id}' does not exist");
            return Err(Refused::new("InvalidNetworkInterfaceID.NotFound", words));
        }
        let asked = |t: &&&Task| {
            (ids.is_empty() || ids.contains(&t.interface))
                && filtered.as_ref().is_none_or(|f| f.contains(&t.interface))
        };
        Ok(told(all.iter().filter(asked).copied()))
    })
}

fn told<'a>(tasks: impl Iterator<Item = &'a Task>) -> String {
    let mut items = String::new();
    for t in tasks {
        let at = t.address.map(|a| a.to_string()).unwrap_or_default();
        let _ = write!(
            items,
            "<item>{}<status>in-use</status>{}<association>{}</association></item>",
            element("networkInterfaceId", &t.interface),
            element("privateIpAddress", &at),
            // there is no other
            element("publicIp", &at),
        );
    }
    format!(
        "<DescribeNetworkInterfacesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>r</requestId>\
         <networkInterfaceSet>{items}</networkInterfaceSet></DescribeNetworkInterfacesResponse>"
    )
}
