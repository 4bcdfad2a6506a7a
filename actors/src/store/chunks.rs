//! What RAM knows of the chunks: how much of each is alive, and whose messages it may hold.

/// What RAM knows of a chunk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChunkInfo {
    /// Messages that still exist.
    pub(crate) live: u16,
    /// Records in its body, gone ones not yet rewritten away included.
    pub(crate) kept: u16,
    /// Bytes of its body.
    pub(crate) body_len: u32,
}

/// The chunks that may hold messages of a shard, ascending. Chunks die without telling this list: it forgets
/// them whenever it has doubled.
#[derive(Debug, Default)]
pub(crate) struct ShardChunks {
    chunks: Vec<u64>,
    prune_at: usize,
}

impl ShardChunks {
    pub(crate) fn push(&mut self, chunk: u64, alive: impl Fn(u64) -> bool) {
        if self.chunks.last() == Some(&chunk) {
            return;
        }
        self.chunks.push(chunk);
        if self.chunks.len() >= self.prune_at.max(64) {
            self.chunks.retain(|chunk| alive(*chunk));
            self.prune_at = self.chunks.len() * 2;
        }
    }

    pub(crate) fn alive(&self, alive: impl Fn(u64) -> bool) -> Vec<u64> {
        self.chunks.iter().copied().filter(|chunk| alive(*chunk)).collect()
    }
}
