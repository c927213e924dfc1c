//! Whether work on different streams is ordered where it has to be.
//!
//! Work here runs at once, in the order of the calls, so a forgotten event would go unseen: on a card
//! the streams run side by side. Each stream therefore keeps a vector clock, the latest moment of
//! every stream that certainly lies before its next work. Events carry clocks from stream to stream,
//! and synchronisation to the host, from which every later work starts. Two uses of a buffer, one of
//! them a write, must be ordered by these clocks.

use std::collections::{BTreeMap, HashMap};

/// The default stream.
const DEFAULT: usize = 0;

/// For each stream, how much of its work has certainly been done.
type Clock = BTreeMap<usize, u64>;

fn join(clock: &mut Clock, other: &Clock) {
    for (stream, time) in other {
        let own = clock.entry(*stream).or_default();
        *own = (*own).max(*time);
    }
}

/// The last uses of a buffer.
#[derive(Default)]
struct Uses {
    write: Option<(usize, u64)>,
    /// The last read by each stream since then.
    reads: Clock,
}

/// The order of all work so far.
#[derive(Default)]
pub(crate) struct Order {
    streams: HashMap<usize, Clock>,
    /// Streams that wait for the default stream and it for them, as all not made otherwise do.
    blocking: Vec<usize>,
    events: HashMap<usize, Clock>,
    host: Clock,
    buffers: HashMap<u64, Uses>,
}

impl Order {
    /// A stream exists.
    pub fn created(&mut self, stream: usize, blocking: bool) {
        if blocking {
            self.blocking.push(stream);
        }
    }

    /// Work begins on a stream: after all the host has seen, and after what the default stream
    /// implies.
    pub fn begin(&mut self, stream: usize) {
        let mut clock = self.streams.remove(&stream).unwrap_or_default();
        join(&mut clock, &self.host);
        if stream == DEFAULT {
            let others = self.blocking.iter().filter_map(|s| self.streams.get(s));
            others.for_each(|other| join(&mut clock, other));
        } else if self.blocking.contains(&stream)
            && let Some(other) = self.streams.get(&DEFAULT)
        {
            join(&mut clock, other);
        }
        *clock.entry(stream).or_default() += 1;
        self.streams.insert(stream, clock);
    }

    /// The work just begun uses a buffer; the stream whose earlier use is not ordered before it.
    pub fn used(&mut self, stream: usize, buffer: u64, write: bool) -> Option<usize> {
        let clock = self.streams.entry(stream).or_default();
        let now = clock.get(&stream).copied().unwrap_or(0);
        let before = |s: usize, time: u64| clock.get(&s).is_some_and(|seen| *seen >= time);
        let uses = self.buffers.entry(buffer).or_default();
        let clash = uses.write.filter(|(s, time)| !before(*s, *time)).map(|(s, _)| s);
        let read = || uses.reads.iter().find(|(s, time)| !before(**s, **time)).map(|(s, _)| *s);
        let clash = if write { clash.or_else(read) } else { clash };
        if write {
            *uses = Uses { write: Some((stream, now)), reads: Clock::new() };
        } else {
            uses.reads.insert(stream, now);
        }
        clash
    }

    /// A buffer is gone.
    pub fn freed(&mut self, buffer: u64) {
        self.buffers.remove(&buffer);
    }

    /// An event marks the present point of a stream.
    pub fn recorded(&mut self, event: usize, stream: usize) {
        let mut clock = self.streams.get(&stream).cloned().unwrap_or_default();
        join(&mut clock, &self.host);
        self.events.insert(event, clock);
    }

    /// A stream waits for an event.
    pub fn waits(&mut self, stream: usize, event: usize) {
        if let Some(clock) = self.events.get(&event) {
            join(self.streams.entry(stream).or_default(), clock);
        }
    }

    /// The host waits for an event.
    pub fn host_waits(&mut self, event: usize) {
        if let Some(clock) = self.events.get(&event) {
            join(&mut self.host, clock);
        }
    }

    /// The host waits for a stream.
    pub fn synchronised(&mut self, stream: usize) {
        if let Some(clock) = self.streams.get(&stream) {
            join(&mut self.host, clock);
        }
    }

    /// The host waits for everything.
    pub fn all_synchronised(&mut self) {
        self.streams.values().for_each(|clock| join(&mut self.host, clock));
    }

    /// A stream or event is gone. What a stream did is not forgotten: its clock stays.
    pub fn destroyed(&mut self, handle: usize) {
        self.events.remove(&handle);
        self.blocking.retain(|stream| *stream != handle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUFFER: u64 = 7;

    /// One use of the buffer on a stream; whether it clashes.
    fn used(order: &mut Order, stream: usize, write: bool) -> Option<usize> {
        order.begin(stream);
        order.used(stream, BUFFER, write)
    }

    #[test]
    fn a_stream_is_ordered_with_itself_and_others_by_events() {
        let mut order = Order::default();
        assert_eq!(used(&mut order, 10, true), None);
        assert_eq!(used(&mut order, 10, false), None);
        assert_eq!(used(&mut order, 11, false), Some(10), "read after write");
        order.recorded(1, 10);
        order.waits(11, 1);
        assert_eq!(used(&mut order, 11, false), None);
        assert_eq!(used(&mut order, 10, true), Some(11), "write after read");
        order.recorded(1, 10);
        order.recorded(2, 11);
        order.waits(12, 1);
        assert_eq!(used(&mut order, 12, true), None);
        // Through a third stream.
        order.recorded(3, 12);
        order.waits(13, 3);
        assert_eq!(used(&mut order, 13, true), None);
    }

    #[test]
    fn the_host_and_the_default_stream_order_too() {
        let mut order = Order::default();
        order.created(10, false);
        order.created(20, true);
        used(&mut order, 10, true);
        order.synchronised(10);
        assert_eq!(used(&mut order, 11, true), None, "the host waited");
        assert_eq!(used(&mut order, DEFAULT, true), Some(11), "not a blocking stream");
        assert_eq!(used(&mut order, 20, true), None, "a blocking stream waits for the default");
        assert_eq!(used(&mut order, DEFAULT, false), None, "and it for the stream");
        order.all_synchronised();
        assert_eq!(used(&mut order, 12, true), None);
        // What was done before an event was recorded is ordered; what was done after is not.
        order.recorded(1, 12);
        used(&mut order, 12, true);
        order.host_waits(1);
        assert_eq!(used(&mut order, 13, false), Some(12));
    }
}
