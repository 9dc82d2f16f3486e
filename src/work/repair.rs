//! When a method cannot bring a file, or brought wrong bytes: another method gets it, or the task ends with the file named.

#[cfg(test)]
mod tests;

use super::Node;
use super::legs::{Plan, obs_location};
use crate::assembly::Assembly;
use crate::error::Fault;
use crate::model::span::Method;
use crate::model::task::{LegState, NodeType};
use crate::store::events::Level;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// A server that asks for more patience than this is asked again all the same.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// Part of a wait by which it may be longer.
const SPREAD: f64 = 0.2;

/// Methods that can bring any file: the origin has the whole package, the bucket may have it. (bt has only its own part.)
const STAND_INS: [Method; 2] = [Method::Cdn, Method::Obs];

/// Whether a method could be asked at all.
fn is_usable(node: &Node, plan: &Plan, m: Method) -> bool {
    let config = node.config.current();
    match m {
        // A cacher has nothing to do with the other methods' parts.
        _ if config.servertype == NodeType::Cacher => false,
        Method::Cdn => plan.file.cdn.url.is_some(),
        Method::Obs => plan.file.obs.url.is_some() && obs_location(&config, &plan.file).is_ok(),
        Method::Bt => true,
    }
}

/// Who is to bring files that `from` (`None` = the library) failed on, each with its number. The inner error: a file that
/// nobody is left for.
async fn successors(
    node: &Node,
    plan: &Plan,
    files: &[u32],
    from: Option<Method>,
) -> Result<Result<Vec<(u32, Method)>, u32>, Fault> {
    let refused: HashSet<(u32, Option<Method>)> =
        node.store.refusals(plan.task.id).await?.into_iter().map(|(n, m, _)| (n, m)).collect();
    // Whom the sender meant, where that is one method.
    let mut planned: HashMap<u32, Option<Method>> = HashMap::new();
    for s in plan.spans.iter().filter(|s| s.method == from) {
        planned.entry(s.span.file).and_modify(|m| *m = m.filter(|m| *m == s.planned)).or_insert(Some(s.planned));
    }
    let can: Vec<Method> = Method::ALL.into_iter().filter(|m| is_usable(node, plan, *m)).collect();
    let one = |file: &u32| {
        // A file that was to be copied goes to the method the sender meant, another one to a stand-in; a stand-in that could
        // not help gives it back.
        let meant = planned.get(file).copied().flatten();
        let first = meant.filter(|_| from.is_none());
        let free = |m: &Method| Some(*m) != from && can.contains(m) && !refused.contains(&(*file, Some(*m)));
        first.into_iter().chain(STAND_INS).chain(meant).find(free).map(|next| (*file, next)).ok_or(*file)
    };
    Ok(files.iter().map(one).collect())
}

/// Gives files that `from` (`None` = the library) failed on to other methods. The message is the reason, the file named.
/// `false`: for one of them nobody is left, and none was handed over.
pub async fn hand_over(node: &Node, plan: &Plan, files: &[u32], from: Option<Method>, message: &str) -> Result<bool, Fault> {
    let now = node.clock.now_ms();
    let moves = match successors(node, plan, files, from).await? {
        Ok(moves) => moves,
        Err(file) => {
            node.store.refuse_file(plan.task.id, file, from, message, now).await?;
            return Ok(false);
        }
    };
    node.store.reassign_files(plan.task.id, &moves, from, message, now).await?;
    let to = moves.first().map_or("nobody", |(_, m)| m.as_str());
    let text = format!("{message}; {to} takes over");
    node.event(Level::Warn, "handed over", plan.task.name.as_str(), &text).await;
    Ok(true)
}

/// When several had a part in a file that is wrong, or the one that has it now may not have brought all of it, nobody is to
/// blame yet: one of those that have whole files brings it anew. `None`: nobody can.
async fn who_brings_anew(node: &Node, plan: &Plan, file: u32, sources: &[Option<Method>]) -> Result<Option<Method>, Fault> {
    if sources.contains(&None) {
        return Ok(None);
    }
    let refusals = node.store.refusals(plan.task.id).await?;
    let free = |m: &Method| is_usable(node, plan, *m) && !refusals.iter().any(|(n, r, _)| *n == file && *r == Some(*m));
    Ok(STAND_INS.into_iter().find(free))
}

/// When nobody else has a wrong file, all of it is fetched once more before the task ends: it may have been damaged on the way
/// or on the disk here. `false`: it was already.
async fn fetch_again(
    node: &Node,
    plan: &Plan,
    assembly: &Assembly,
    file: u32,
    method: Method,
    message: &str,
) -> Result<bool, Fault> {
    let (task, name) = (plan.task.id, plan.task.name.as_str());
    if node.config.current().retries < 2 || node.store.was_fetched_again(task, file).await? {
        return Ok(false);
    }
    // Also what bt brought of it: whose bytes are wrong is not known any more.
    let size = plan.files.get(file as usize).map_or(0, |f| f.size);
    assembly.reset(file, std::slice::from_ref(&(0..size))).await?;
    node.store.fetch_again(task, file, method, &format!("{method}: {message}")).await?;
    let line = format!("{} try 1: {message}: it is fetched once more", node.clock.now().format("%Y-%m-%d %H:%M:%S"));
    if let Err(fault) = crate::views::note_error(&node.store, &node.dirs, task, &line).await {
        tracing::warn!(%fault, task = name, "cannot show an error in the task directory");
    }
    let text = format!("{message}, and no other method has it: it is fetched once more");
    node.event(Level::Warn, "fetched anew", name, &text).await;
    Ok(true)
}

/// What became of wrong files.
#[derive(Debug, Default)]
pub struct Repaired {
    /// One is fetched once more by those who brought it. A leg at work is to begin with it, so that a source that is really
    /// wrong is found out soon.
    pub again: bool,
    /// The first that nobody can repair.
    pub lost: Option<Lost>,
}

/// What nobody can repair.
#[derive(Debug, PartialEq, Eq)]
pub struct Lost {
    /// Who brought it; `None`: the library.
    pub from: Option<Method>,
    /// The error that ends the task, the file named.
    pub error: String,
}

/// Deals with the files whose SHA-1 came out wrong.
pub async fn repair_wrong_files(node: &Node, plan: &Plan, assembly: &Assembly) -> Result<Repaired, Fault> {
    let mut repaired = Repaired::default();
    for file in assembly.wrong_files() {
        match repair_wrong_file(node, plan, assembly, file).await? {
            Next::Another => {}
            Next::Again => repaired.again = true,
            Next::Nobody(lost) => {
                repaired.lost = Some(lost);
                break;
            }
        }
    }
    Ok(repaired)
}

/// Who brings a wrong file next.
enum Next {
    Another,
    /// Who brought it.
    Again,
    Nobody(Lost),
}

async fn repair_wrong_file(node: &Node, plan: &Plan, assembly: &Assembly, file: u32) -> Result<Next, Fault> {
    let mine = plan.spans.iter().filter(|s| s.span.file == file);
    let mut sources: Vec<Option<Method>> = mine.clone().map(|s| s.method).collect();
    sources.sort();
    sources.dedup();
    // bt checks its pieces; it is suspected only when nobody else had a part in the file.
    if sources.len() > 1 {
        sources.retain(|m| *m != Some(Method::Bt));
    }
    // First of all, whatever becomes of it: bytes that nobody vouches for must not be taken for present when the task is
    // received again.
    let mixed = node.store.is_mixed(plan.task.id, file).await?;
    let suspect = mine.filter(|s| mixed || sources.contains(&s.method)).map(|s| s.span.range()).collect::<Vec<_>>();
    assembly.reset(file, &suspect).await?;
    if (mixed || sources.len() > 1)
        && let Some(by) = who_brings_anew(node, plan, file, &sources).await?
    {
        node.store.fetch_anew(plan.task.id, file, by).await?;
        let text = format!("file {}: wrong SHA-1, and several had a part in it: {by} brings it anew", assembly.path_of(file));
        node.event(Level::Warn, "fetched anew", plan.task.name.as_str(), &text).await;
        return Ok(Next::Another);
    }
    for source in sources {
        let name = source.map_or("the library", Method::as_str);
        let message = format!("file {}: wrong SHA-1 from {name}", assembly.path_of(file));
        if let Some(method) = source
            && successors(node, plan, &[file], source).await?.is_err()
            && fetch_again(node, plan, assembly, file, method, &message).await?
        {
            return Ok(Next::Again);
        }
        if source.is_none() {
            forget_source(node, assembly, file).await?;
        }
        if !hand_over(node, plan, &[file], source, &message).await? {
            return Ok(Next::Nobody(Lost { from: source, error: format!("{message}, and no other method has it") }));
        }
    }
    node.store.forget_mixed(plan.task.id, file).await?;
    Ok(Next::Another)
}

/// The library's copy of a file is not what its row said: neither this task nor another one uses it again.
pub async fn forget_source(node: &Node, assembly: &Assembly, file: u32) -> Result<(), Fault> {
    match assembly.forget_source(file) {
        Some(path) => node.store.forget_library_file(&path).await,
        None => Ok(()),
    }
}

/// What becomes of a leg whose run ended with a fault.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Again later, or at once when the time is `None`.
    Retry {
        at: Option<i64>,
        tries: u32,
    },
    Failed,
}

/// Decides after a fault of a fetching leg: hand over, try again, or give up. `unfinished`: the files of which the method
/// still has something to bring. One that the method does not have is handed over alone; a method that is away for good
/// gives all of them away at once, not one after the other.
pub async fn after_fault(
    node: &Node,
    plan: &Plan,
    method: Method,
    unfinished: &HashSet<u32>,
    fault: &Fault,
    tries: u32,
    moved: bool,
) -> Result<Verdict, Fault> {
    let config = node.config.current();
    if fault.is_transient()
        && let Some(tries) = try_again(config.retries, tries, moved)
    {
        return Ok(Verdict::Retry { at: Some(next_try(node, fault)), tries });
    }
    if fault.class == crate::error::FaultClass::Local {
        return Ok(Verdict::Failed);
    }
    let mut affected: Vec<u32> = match &fault.file {
        Some(path) if !fault.is_transient() => {
            let lost: HashSet<&str> = fault.others.iter().chain([path]).map(String::as_str).collect();
            let named = (0u32..).zip(plan.files.iter()).filter(|(_, f)| lost.contains(f.path.as_str()));
            let (mine, brought): (Vec<_>, Vec<_>) = named.map(|(n, _)| n).partition(|n| unfinished.contains(n));
            // Others have brought them meanwhile, or a copy was found: the leg goes on with the rest. It does not ask for
            // them again, and so cannot fail on them twice.
            if mine.is_empty() && !brought.is_empty() {
                return Ok(Verdict::Retry { at: None, tries });
            }
            mine
        }
        _ => unfinished.iter().copied().collect(),
    };
    affected.sort_unstable();
    if affected.is_empty() {
        return Ok(Verdict::Failed);
    }
    let path = |n: &u32| plan.files.get(*n as usize).map(|f| f.path.as_str()).unwrap_or_default();
    let message = match &affected[..] {
        [one] => format!("file {}: {method}: {}", path(one), fault.message),
        many => format!("{} files: {method}: {}", many.len(), fault.message),
    };
    Ok(match hand_over(node, plan, &affected, Some(method), &message).await? {
        true => Verdict::Retry { at: None, tries: 0 },
        false => Verdict::Failed,
    })
}

/// `all`: how often a leg is tried in a row without progress, the first time included (protocol section 12). `failed`: how
/// often it was, before this time. Gives the number of tries that have failed now, if there is another one. A run that brought something and
/// broke off is the first of a new row.
pub fn try_again(all: u32, failed: u32, moved: bool) -> Option<u32> {
    let now = if moved { 1 } else { failed.saturating_add(1) };
    (now < all || (moved && all > 0)).then_some(now)
}

/// When a leg is tried again: after the configured time, or as long as the server asked for, an hour at most; and up to a
/// fifth later, so that those who lost a server in the same moment do not come back in the same moment.
pub fn next_try(node: &Node, fault: &Fault) -> i64 {
    let asked = fault.retry_after.unwrap_or_default().min(LONGEST_WAIT);
    let wait = asked.max(node.config.current().retrydelay);
    let wait = wait + wait.mul_f64(rand::random_range(0.0..=SPREAD));
    node.clock.now_ms().saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX))
}

/// Whether this can be a time that [`next_try`] gave. After the clock was set back, it may be years away.
pub fn may_be_a_next_try(node: &Node, at: i64) -> bool {
    let longest = LONGEST_WAIT.max(node.config.current().retrydelay).mul_f64(1.0 + SPREAD);
    at.saturating_sub(node.clock.now_ms()) <= i64::try_from(longest.as_millis()).unwrap_or(i64::MAX)
}

/// The text that a failed leg shows: the file first, where there is one.
pub fn leg_error(method: Method, fault: &Fault) -> String {
    match &fault.file {
        Some(file) if !fault.message.contains(file.as_str()) => format!("{method}: file {file}: {}", fault.message),
        _ => format!("{method}: {}", fault.message),
    }
}

/// The errors of the methods before follow a method's own. A stand-in without a part in the task is not what went wrong when
/// it does not have a file: there those that have one lead.
pub async fn with_history(node: &Node, plan: &Plan, method: Method, fault: &Fault, error: String) -> Result<String, Fault> {
    let Some(file) = plan.files.iter().zip(0u32..).find(|(f, _)| fault.file.as_deref() == Some(f.path.as_str())) else {
        return Ok(error);
    };
    let refusals = node.store.refusals(plan.task.id).await?;
    let others = refusals.into_iter().filter(|(n, m, _)| *n == file.1 && *m != Some(method));
    let has_part = |m: Option<Method>| m.is_some_and(|m| plan.spans.iter().any(|s| s.planned == m));
    let (lead, rest): (Vec<_>, Vec<_>) = others.partition(|(_, m, _)| !has_part(Some(method)) && has_part(*m));
    let texts = |list: Vec<(u32, Option<Method>, String)>| list.into_iter().map(|(_, _, text)| text);
    let own = std::iter::once(error).chain(texts(rest)).collect::<Vec<_>>().join("; before: ");
    Ok(texts(lead).chain([own]).collect::<Vec<_>>().join("; then "))
}

/// Marks a leg as failed with its text.
pub async fn fail_leg(node: &Node, task: i64, method: Method, error: &str) -> Result<(), Fault> {
    node.store.set_leg(task, method, LegState::Failed, error, 0, None).await
}
