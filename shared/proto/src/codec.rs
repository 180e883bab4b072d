//! How messages are encoded: as tonic does it, with smaller buffers.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// What a buffer has room for at first, in bytes. It grows with its message.
///
/// Most chats are smaller. tonic's own 8 KiB are more than allocators keep at hand for a thread (glibc: 1,032 bytes), and a
/// call takes two buffers on either side.
const BUFFER: usize = 1024;

/// The size, in bytes, from which a message of a stream is passed on before the next is encoded: tonic's own.
const YIELD: usize = 32 * 1024;

/// tonic's codec for protobuf, with buffers of 1 KiB.
#[derive(Debug, Clone)]
pub struct SmallBufferCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallBufferCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for SmallBufferCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BUFFER, YIELD))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER, YIELD))
    }
}
