//! Tools, and the form of the answer.

use aiplatform_proto::inference::v1::{
    JsonObjectFormat, JsonSchemaFormat, ResponseFormat, Tool, ToolChoice, ToolChoiceMode, response_format,
    tool_choice,
};
use serde_json::value::RawValue;

use super::super::object::{Object, Refusal, element, read};

pub(super) fn tools(list: Vec<&RawValue>) -> Result<Vec<Tool>, Refusal> {
    list.into_iter().enumerate().map(|(index, json)| tool(&element("tools", index), json)).collect()
}

fn tool(path: &str, json: &RawValue) -> Result<Tool, Refusal> {
    let mut object = Object::of(path, json)?;
    if object.required_text("type")? != "function" {
        return object.refuse("type", "must be function");
    }
    let Some(mut function) = object.object("function")? else {
        return object.refuse("function", "must be set");
    };
    object.end()?;
    let name = function.required_text("name")?;
    let description = function.text("description")?.unwrap_or_default();
    let parameters_json = function.object_text("parameters")?.unwrap_or_default();
    // Nobody behind us promises to keep a tool's schema, so asking for it changes nothing.
    function.ignore(&["strict"]);
    function.end()?;
    Ok(Tool { name, description, parameters_json, parameters: None })
}

pub(super) fn choice(json: &RawValue) -> Result<ToolChoice, Refusal> {
    const RULE: &str = "must be none, auto, required or a function";
    let mode = |mode: ToolChoiceMode| tool_choice::Choice::Mode(mode.into());
    let choice = match read::<String>(json).as_deref() {
        Some("none") => mode(ToolChoiceMode::None),
        Some("auto") => mode(ToolChoiceMode::Auto),
        Some("required") => mode(ToolChoiceMode::Required),
        Some(_) => return Err(Refusal::new("tool_choice", RULE)),
        None => {
            let mut object =
                Object::of("tool_choice", json).map_err(|_| Refusal::new("tool_choice", RULE))?;
            if object.required_text("type")? != "function" {
                return object.refuse("type", "must be function");
            }
            let Some(mut function) = object.object("function")? else {
                return object.refuse("function", "must be set");
            };
            object.end()?;
            let name = function.required_text("name")?;
            function.end()?;
            tool_choice::Choice::Function(name)
        }
    };
    Ok(ToolChoice { choice: Some(choice) })
}

pub(super) fn response_format(body: &mut Object<'_>) -> Result<Option<ResponseFormat>, Refusal> {
    let Some(mut object) = body.object("response_format")? else { return Ok(None) };
    let format = match object.required_text("type")?.as_str() {
        "text" => None,
        "json_object" => Some(response_format::Format::JsonObject(JsonObjectFormat {})),
        "json_schema" => {
            let Some(mut schema) = object.object("json_schema")? else {
                return object.refuse("json_schema", "must be set");
            };
            let format = JsonSchemaFormat {
                name: schema.required_text("name")?,
                schema_json: schema.object_text("schema")?.unwrap_or_default(),
                strict: schema.boolean("strict")?.unwrap_or(false),
                schema: None,
            };
            schema.ignore(&["description"]);
            schema.end()?;
            Some(response_format::Format::JsonSchema(format))
        }
        _ => return object.refuse("type", "must be text, json_object or json_schema"),
    };
    object.end()?;
    Ok(format.map(|format| ResponseFormat { format: Some(format) }))
}
