//! JSON that a request brings for its upstream: from here on it is text.
//!
//! The text that a client wrote is the only form that keeps the order of fields, in which a model that is guided by a schema
//! writes them, and all digits of its numbers. What came as protobuf has lost both already, and is written out once.

use aiplatform_proto::Struct;
use aiplatform_proto::inference::v1::{ChatRequest, response_format};
use aiplatform_proto::json::to_json_object;
use serde_json::Value;

/// Leaves no JSON as protobuf.
pub(super) fn write_out(request: &mut ChatRequest) {
    write(&mut request.extra_body, &mut request.extra_body_json);
    for tool in &mut request.tools {
        write(&mut tool.parameters, &mut tool.parameters_json);
    }
    let format = request.response_format.as_mut().and_then(|format| format.format.as_mut());
    if let Some(response_format::Format::JsonSchema(schema)) = format {
        write(&mut schema.schema, &mut schema.schema_json);
    }
}

fn write(given: &mut Option<Struct>, text: &mut String) {
    if let Some(given) = given.take() {
        *text = Value::Object(to_json_object(&given)).to_string();
    }
}
