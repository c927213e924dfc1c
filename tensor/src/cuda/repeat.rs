//! A function that a GPU is asked for again and again.

use super::{Cuda, Graph};
use crate::{Error, Result, Tensor};

/// What a GPU does again and again: [recorded](Cuda::record) as it is done the first time, and anew
/// where the graph does not [take](Graph::takes) what it is given. What cannot be recorded is asked
/// for kernel by kernel, with the same bits.
#[derive(Default)]
pub struct Repeat(State);

#[derive(Default)]
enum State {
    #[default]
    New,
    Recorded(Graph),
    /// Why nothing is recorded, until that has been asked for.
    Refused(Option<Error>),
}

impl Repeat {
    /// The function's results for these inputs, which may lie anywhere. It is the same function every
    /// time: all that changes is in its inputs, or among what it writes in place.
    ///
    /// Errors: those of the function; the GPU's.
    #[track_caller]
    pub fn run(
        &mut self,
        gpu: &Cuda,
        inputs: &[&Tensor],
        mut f: impl FnMut(&[Tensor]) -> Result<Vec<Tensor>>,
    ) -> Result<Vec<Tensor>> {
        match &self.0 {
            State::Recorded(graph) if graph.takes(inputs) => return graph.run(inputs),
            State::Refused(_) => {
                let there = inputs.iter().map(|x| gpu.take(x)).collect::<Result<Vec<Tensor>>>()?;
                return f(&there);
            }
            // A graph shares what it writes in place: it goes before another is made.
            _ => self.0 = State::New,
        }
        let (results, graph) = gpu.record(inputs, f)?;
        self.0 = match graph {
            Ok(graph) => State::Recorded(graph),
            Err(error) => State::Refused(Some(error)),
        };
        Ok(results)
    }

    /// Whether there is a graph to repeat.
    pub fn is_recorded(&self) -> bool {
        matches!(self.0, State::Recorded(_))
    }

    /// Why it could not be recorded, for the first who asks.
    pub fn refusal(&mut self) -> Option<Error> {
        match &mut self.0 {
            State::Refused(error) => error.take(),
            _ => None,
        }
    }
}
