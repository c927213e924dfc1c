//! Where a tensor's elements lie.

use std::fmt;
use std::str::FromStr;

use crate::cuda::Cuda;
use crate::{Error, Result, Tensor};

/// Where elements lie, and so where they are computed with: nothing moves unless it is told to.
///
/// ```
/// use tensor::{DType, Device, Tensor};
/// # fn main() -> tensor::Result<()> {
/// let x = Tensor::ones([2, 3], DType::F32);
/// assert_eq!(x.to_device(&Device::Cpu)?.device(), Device::Cpu);
/// assert!("cpu".parse::<Device>().is_ok() && "tpu".parse::<Device>().is_err());
/// assert!("cuda:+1".parse::<Device>().unwrap_err().to_string().contains("is no device"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// This machine's memory and processor.
    #[default]
    Cpu,
    /// A GPU of NVIDIA's.
    Cuda(Cuda),
}

impl Device {
    /// The GPU of this number, counted from 0.
    ///
    /// Errors: there is no driver, or no such GPU, or none that the kernels run on.
    #[track_caller]
    pub fn cuda(ordinal: usize) -> Result<Self> {
        Cuda::open(ordinal).map(Self::Cuda)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(gpu) => gpu.fmt(f),
        }
    }
}

/// `cpu`, `cuda` (the first GPU) or `cuda:1`. Errors: another text; as [`Device::cuda`].
impl FromStr for Device {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(':').unwrap_or((text, "0")) {
            ("cpu", "0") => Ok(Self::Cpu),
            // Rust's numbers may begin with a plus.
            ("cuda", ordinal) if ordinal.parse::<u8>().is_ok() && !ordinal.starts_with('+') => {
                Self::cuda(ordinal.parse().expect("digits"))
            }
            _ => Err(Error::value("device", format!("`{text}` is no device"))
                .note("devices are cpu, cuda (the first GPU), cuda:1, ...")),
        }
    }
}

/// Devices.
impl Tensor {
    /// Where the elements lie.
    pub fn device(&self) -> Device {
        self.cuda().map_or(Device::Cpu, |gpu| Device::Cuda(gpu.clone()))
    }

    /// The GPU in whose memory the elements lie, if it is one's.
    pub fn cuda(&self) -> Option<&Cuda> {
        self.storage.cuda()
    }

    /// The same elements on a device: this tensor if they are there, else a copy, which is
    /// contiguous.
    ///
    /// Cost: the transfer. To a GPU it may still be under way when this returns, and everything that
    /// follows there waits for it; from a GPU this waits for everything that was asked of it.
    /// Errors: the GPU's memory does not suffice; the driver's, of all that was asked for before.
    #[track_caller]
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        match (self.cuda(), device) {
            (None, Device::Cpu) => Ok(self.clone()),
            (Some(from), Device::Cuda(to)) if from == to => Ok(self.clone()),
            (None, Device::Cuda(to)) => to.upload(self),
            (Some(_), Device::Cpu) => self.download(),
            (Some(_), Device::Cuda(to)) => to.upload(&self.download()?),
        }
    }
}
