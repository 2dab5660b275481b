//! Longest-match search over a fixed set of strings.

use std::collections::VecDeque;

/// A byte trie in three flat arrays.
///
/// Nodes are numbered breadth first, so the children of a node are neighbours, sorted by byte, and end where those of
/// the next node begin.
#[derive(Debug)]
pub(super) struct Trie {
    /// The byte that leads to the node.
    bytes: Vec<u8>,
    /// The first child of the node; one entry more than there are nodes.
    first_child: Vec<u32>,
    /// The number of the string that ends at the node, or [`NO_TOKEN`].
    token: Vec<u32>,
}

const NO_TOKEN: u32 = u32::MAX;

/// A place in the trie.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node(u32);

impl Trie {
    /// The trie of `tokens`, numbered in their order; of equal strings the last number counts.
    ///
    /// Together they must have less than 2³² bytes.
    pub(super) fn new(tokens: &[&str]) -> Self {
        let mut order: Vec<u32> = (0..tokens.len() as u32).collect();
        order.sort_by_key(|&id| tokens[id as usize].as_bytes()); // stable: equal strings stay in order
        let text = |at: usize| tokens[order[at] as usize].as_bytes();

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
    pub(super) fn root(&self) -> Node {
        Node(0)
    }

    /// The node that `byte` leads to.
    pub(super) fn step(&self, Node(node): Node, byte: u8) -> Option<Node> {
        let first = self.first_child[node as usize];
        let end = self.first_child[node as usize + 1];
        let child = self.bytes[first as usize..end as usize].binary_search(&byte).ok()?;
        Some(Node(first + child as u32))
    }

    /// The node that `prefix` leads to from the root.
    pub(super) fn walk(&self, prefix: &str) -> Option<Node> {
        prefix.bytes().try_fold(self.root(), |node, byte| self.step(node, byte))
    }

    /// The number of the string that ends at `node`.
    pub(super) fn token(&self, Node(node): Node) -> Option<u32> {
        Some(self.token[node as usize]).filter(|&token| token != NO_TOKEN)
    }

    /// The number and length of the longest string that continues `from` and is a beginning of `text`; never the empty one.
    pub(super) fn longest(&self, from: Node, text: &[u8]) -> Option<(u32, usize)> {
        let (mut node, mut best) = (from, None);
        for (at, &byte) in text.iter().enumerate() {
            let Some(next) = self.step(node, byte) else { break };
            node = next;
            if let Some(token) = self.token(node) {
                best = Some((token, at + 1));
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
        fn the_longest_match_is_the_one_that_trying_all_finds(
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
                .max() // the longest, and of equals the last
                .map(|(len, id)| (id, len));
            prop_assert_eq!(trie.longest(trie.root(), text.as_bytes()), expected);
            let exact = tokens.iter().rposition(|t| *t == text).map(|id| id as u32);
            prop_assert_eq!(trie.walk(&text).and_then(|node| trie.token(node)), exact);
        }
    }
}
