//! What a store over another one passes on as it is.

use backstay_store::StoreError;
use std::pin::Pin;

/// What a verb of a store gives, as `async_trait` writes it.
pub type Answer<'f, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'f>>;

/// Verbs that go to the store inside as they are, within the `impl Store` of another one: `forward!(inner: get head)`.
#[macro_export]
macro_rules! forward {
    ($inner:tt: $($verb:ident)+) => { $($crate::forward!(@$verb $inner);)+ };
    (@put_new $inner:tt) => {
        fn put_new<'a, 'b, 'f>(&'a self, key: &'b ::backstay_store::Key, bytes: ::bytes::Bytes)
            -> $crate::forward::Answer<'f, ::backstay_store::Put> where 'a: 'f, 'b: 'f, Self: 'f {
            self.$inner.put_new(key, bytes)
        }
    };
    (@get $inner:tt) => {
        fn get<'a, 'b, 'f>(&'a self, key: &'b ::backstay_store::Key)
            -> $crate::forward::Answer<'f, ::bytes::Bytes> where 'a: 'f, 'b: 'f, Self: 'f {
            self.$inner.get(key)
        }
    };
    (@get_range $inner:tt) => {
        fn get_range<'a, 'b, 'f>(&'a self, key: &'b ::backstay_store::Key, range: ::std::ops::Range<u64>)
            -> $crate::forward::Answer<'f, ::bytes::Bytes> where 'a: 'f, 'b: 'f, Self: 'f {
            self.$inner.get_range(key, range)
        }
    };
    (@head $inner:tt) => {
        fn head<'a, 'b, 'f>(&'a self, key: &'b ::backstay_store::Key)
            -> $crate::forward::Answer<'f, Option<u64>> where 'a: 'f, 'b: 'f, Self: 'f {
            self.$inner.head(key)
        }
    };
    (@list $inner:tt) => {
        fn list<'a, 'b, 'c, 'f>(&'a self, prefix: &'b str, after: Option<&'c ::backstay_store::Key>, limit: usize)
            -> $crate::forward::Answer<'f, ::backstay_store::Page> where 'a: 'f, 'b: 'f, 'c: 'f, Self: 'f {
            self.$inner.list(prefix, after, limit)
        }
    };
    (@delete $inner:tt) => {
        fn delete<'a, 'b, 'f>(&'a self, key: &'b ::backstay_store::Key)
            -> $crate::forward::Answer<'f, ()> where 'a: 'f, 'b: 'f, Self: 'f {
            self.$inner.delete(key)
        }
    };
    (@describe $inner:tt) => {
        fn describe(&self) -> String {
            self.$inner.describe()
        }
    };
}
