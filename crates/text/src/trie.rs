//! Longest-match search over a fixed set of strings.

use std::collections::VecDeque;

/// A byte trie in three flat arrays.
///
/// Nodes are numbered breadth first, so the children of a node are contiguous, sorted by byte, and end where those of the next node
/// begin.
#[derive(Debug)]
pub(crate) struct Trie {
    /// The byte of the edge to each node.
    bytes: Vec<u8>,
    /// The first child of each node. The last element is the number of nodes.
    first_child: Vec<u32>,
    /// The id of the string that ends at each node, or [`NO_TOKEN`].
    token: Vec<u32>,
}

const NO_TOKEN: u32 = u32::MAX;

/// A node of the trie, which represents a prefix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node(u32);

impl Trie {
    /// Builds the trie of `tokens`, whose ids are their indices. Of equal strings, only the last id is found.
    ///
    /// All tokens together must have less than 2³² bytes.
    pub(crate) fn new(tokens: &[&str]) -> Self {
        let mut order: Vec<u32> = (0..tokens.len() as u32).collect();
        order.sort_by_key(|&id| tokens[id as usize].as_bytes()); // stable: equal strings stay in order
        let text = |i: usize| tokens[order[i] as usize].as_bytes();

        let mut trie = Self {
            bytes: vec![0],
            first_child: Vec::new(),
            token: Vec::new(),
        };
        // A node is the range of sorted strings that share its prefix, and the length of that prefix.
        let mut nodes = VecDeque::from([(0, tokens.len(), 0)]);
        while let Some((mut start, end, depth)) = nodes.pop_front() {
            let mut token = NO_TOKEN;
            while start < end && text(start).len() == depth {
                token = order[start];
                start += 1;
            }
            trie.token.push(token);
            trie.first_child.push(trie.bytes.len() as u32);
            while start < end {
                let byte = text(start)[depth];
                let mut next = start + 1;
                while next < end && text(next)[depth] == byte {
                    next += 1;
                }
                trie.bytes.push(byte);
                nodes.push_back((start, next, depth + 1));
                start = next;
            }
        }
        trie.first_child.push(trie.bytes.len() as u32);
        trie
    }

    /// The node of the empty prefix.
    pub(crate) fn root(&self) -> Node {
        Node(0)
    }

    /// Returns the child of a node at the edge `byte`.
    pub(crate) fn step(&self, Node(node): Node, byte: u8) -> Option<Node> {
        let first = self.first_child[node as usize];
        let end = self.first_child[node as usize + 1];
        let child = self.bytes[first as usize..end as usize].binary_search(&byte).ok()?;
        Some(Node(first + child as u32))
    }

    /// The node of a prefix.
    pub(crate) fn walk(&self, prefix: &str) -> Option<Node> {
        prefix.bytes().try_fold(self.root(), |node, byte| self.step(node, byte))
    }

    /// The id of the string that ends at `node`.
    pub(crate) fn token(&self, Node(node): Node) -> Option<u32> {
        Some(self.token[node as usize]).filter(|&token| token != NO_TOKEN)
    }

    /// Follows `text` from the node `from`. Returns the id of the last string that ends on this path, and the number of bytes of `text` up
    /// to its end.
    pub(crate) fn longest(&self, from: Node, text: &[u8]) -> Option<(u32, usize)> {
        let (mut node, mut best) = (from, None);
        for (i, &byte) in text.iter().enumerate() {
            let Some(next) = self.step(node, byte) else { break };
            node = next;
            if let Some(token) = self.token(node) {
                best = Some((token, i + 1));
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn longest_match_equals_exhaustive_search(
            tokens in prop::collection::vec("[abé]{0,4}", 0..30),
            text in "[abé]{0,8}",
        ) {
            let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
            let trie = Trie::new(&tokens);
            let expected = tokens
                .iter()
                .enumerate()
                .filter(|(_, t)| !t.is_empty() && text.starts_with(**t))
                .map(|(id, t)| (t.len(), id as u32))
                .max() // the longest string; of equal strings the last id
                .map(|(len, id)| (id, len));
            prop_assert_eq!(trie.longest(trie.root(), text.as_bytes()), expected);
            let exact = tokens.iter().rposition(|t| *t == text).map(|id| id as u32);
            prop_assert_eq!(trie.walk(&text).and_then(|node| trie.token(node)), exact);
        }
    }
}
