//! Symbolic links stay inside their tree: checked when a tree is made and when it is read.

use super::{Kind, NodeId, Tree};
use crate::error::VerifyError;
use crate::limits;

/// Where a path leads.
pub(super) enum Walk {
    Found(NodeId),
    /// A component does not exist: a dangling link, which is harmless.
    Missing,
    Refused(&'static str),
}

/// Follows `path` from `from` as the kernel would; never above the root.
///
/// `steps` bounds the work of many walks together.
pub(super) fn walk(tree: &Tree, from: NodeId, path: &str, steps: &mut usize) -> Walk {
    if path.starts_with('/') {
        return Walk::Refused("an absolute link");
    }
    // Components still to walk, the next one last. A link pushes its own on top.
    let mut ahead: Vec<&str> = path.rsplit('/').collect();
    let mut at = from;
    let mut followed = 0;
    while let Some(part) = ahead.pop() {
        match steps.checked_sub(1) {
            Some(left) => *steps = left,
            None => return Walk::Refused("links that take too long to follow"),
        }
        match part {
            "" | "." => continue,
            ".." if at == NodeId::ROOT => return Walk::Refused("a link that leads out of the tree"),
            ".." => {
                at = tree.parent(at);
                continue;
            }
            _ => {}
        }
        let Some(next) = tree.child(at, part.as_bytes()) else { return missing(tree, at, &ahead, steps) };
        match tree.node(next).map(|node| node.kind) {
            Some(Kind::Link { target }) => {
                followed += 1;
                if followed > limits::LINK_DEPTH {
                    return Walk::Refused("a loop of links, or a chain of more than 40");
                }
                if target.starts_with('/') {
                    return Walk::Refused("an absolute link");
                }
                ahead.extend(target.rsplit('/'));
            }
            _ => at = next,
        }
    }
    Walk::Found(at)
}

/// A missing component ends the walk, but what follows it must not climb out either: the
/// component may exist on a host that lays another file system over this one.
fn missing(tree: &Tree, at: NodeId, ahead: &[&str], steps: &mut usize) -> Walk {
    let mut depth = 1;
    let mut up = at;
    while up != NodeId::ROOT {
        up = tree.parent(up);
        depth += 1;
    }
    for part in ahead.iter().rev() {
        match steps.checked_sub(1) {
            Some(left) => *steps = left,
            None => return Walk::Refused("links that take too long to follow"),
        }
        match *part {
            "" | "." => {}
            ".." if depth == 0 => return Walk::Refused("a link that leads out of the tree"),
            ".." => depth -= 1,
            _ => depth += 1,
        }
    }
    Walk::Missing
}

/// Checks every link of a tree.
pub(super) fn check(tree: &Tree) -> Result<(), VerifyError> {
    let mut steps = limits::LINK_STEPS;
    for id in (0..tree.len()).map(NodeId) {
        if let Some(Kind::Link { target }) = tree.node(id).map(|node| node.kind)
            && let Walk::Refused(why) = walk(tree, tree.parent(id), target, &mut steps)
        {
            return Err(VerifyError::malformed("tree", format!("{}: {why}", tree.path(id))));
        }
    }
    Ok(())
}
