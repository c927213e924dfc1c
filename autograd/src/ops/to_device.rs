//! Elements on another device.

use tensor::{Device, Result, Tensor};

use crate::{Keep, Kept, Op, Var, apply};

/// Devices.
impl Var {
    /// The same elements on a device.
    ///
    /// y = x.
    ///
    /// Shapes: any → the same. Saves: nothing. Cost: the transfer, back again for the gradient; none
    /// if they are there. Errors: the device's.
    #[track_caller]
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        let from = self.device();
        if from == *device {
            return Ok(self.clone());
        }
        apply(ToDevice { from, to: device.clone() }, [self])
    }
}

#[derive(Debug)]
struct ToDevice {
    from: Device,
    to: Device,
}

impl Op<1> for ToDevice {
    const NAME: &'static str = "to_device";
    const KEEPS: [Keep; 1] = [Keep::NOTHING];
    const HALF: bool = true;
    const TWICE: bool = true;
    const CUDA: bool = true;
    type Aux = ();

    fn forward(&self, [x]: [&Tensor; 1]) -> Result<(Tensor, ())> {
        Ok((x.to_device(&self.to)?, ()))
    }

    fn vjp(&self, _: Kept<'_, ()>, dy: &Var, _: [bool; 1]) -> Result<[Option<Var>; 1]> {
        Ok([Some(dy.to_device(&self.from)?)])
    }
}
