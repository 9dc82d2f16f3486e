//! A node that is another than at its last start: which tasks can go on, and what becomes of its hash table.

use super::Node;
use crate::error::Fault;
use crate::library::Library;
use crate::model::task::{NodeType, Role, TaskState};
use crate::store::events::Level;
use crate::store::node::NodeRow;
use crate::store::tasks::TaskRow;

/// Compares the configuration with the last start. A live task that the node's new type cannot finish is a fault: whoever
/// mistyped one word must not lose tasks. After another change of type or store plan the hash table is rebuilt (protocol
/// section 9). Call before anything runs; `library` is `None` for a cacher.
pub async fn check(node: &Node, library: Option<&Library>) -> Result<(), Fault> {
    let (config, store) = (node.config.current(), &node.store);
    let now =
        NodeRow { servertype: config.servertype.to_string(), receiverstoreplan: config.receiverstoreplan.as_str().to_owned() };
    let at = node.clock.now_ms();
    let Some(before) = store.node().await? else { return store.put_node(&now, at).await };
    if before == now {
        return Ok(());
    }
    if let Some(was) = NodeType::parse(&before.servertype) {
        refuse_stranded(node, was, config.servertype).await?;
    }
    let changes: Vec<String> = [
        ("servertype", &before.servertype, &now.servertype),
        ("receiverstoreplan", &before.receiverstoreplan, &now.receiverstoreplan),
    ]
    .into_iter()
    .filter(|(_, old, new)| old != new)
    .map(|(key, old, new)| format!("{key} has changed from {old} to {new}"))
    .collect();
    let what = match library {
        Some(library) => {
            library.compare_all();
            "the hash table is rebuilt: every file of the library is compared, and hashed unless it is as it was"
        }
        None => "a cacher keeps no hash table: it is rebuilt when this node is something else again",
    };
    node.event(Level::Info, "hashtable", "", &format!("{}: {what}", changes.join(", "))).await;
    store.put_node(&now, at).await
}

/// A cacher's reception has the BitTorrent part alone, the others' have all: one cannot become the other. Only a sender
/// tells and ends what was sent.
async fn refuse_stranded(node: &Node, was: NodeType, is: NodeType) -> Result<(), Fault> {
    let caches = |t| t == NodeType::Cacher;
    let stranded = |role| match role {
        Role::Send => was == NodeType::Sender && is != NodeType::Sender,
        Role::Recv => caches(was) != caches(is),
    };
    let tasks = node.store.live_tasks().await?;
    // A cacher's that is over has nothing to go on with.
    let over = |t: &TaskRow| caches(was) && t.state == TaskState::Downloaded;
    let names: Vec<&str> = tasks.iter().filter(|t| stranded(t.role) && !over(t)).map(|t| t.name.as_str()).collect();
    let Some(first) = names.first() else { return Ok(()) };
    let more = if names.len() > 1 { format!(" and {} more", names.len() - 1) } else { String::new() };
    Err(Fault::permanent(format!(
        "servertype has changed from {was} to {is}, and {first}{more} cannot go on on a {is}. Set servertype back to {was}, \
         let the tasks end or cancel them (bftv2 cancel NAME), and change it then"
    )))
}
