//! What a request needs.

use crate::identity::{Role, Roles};

/// What a request must bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing: not even a wrong credential is looked at.
    Nothing,
    /// A credential, whatever its roles.
    Credential,
    /// A credential with this role.
    Role(Role),
}

impl Need {
    /// Whether a caller with these roles has it.
    pub fn is_met_by(self, roles: Roles) -> bool {
        match self {
            Self::Nothing | Self::Credential => true,
            Self::Role(role) => roles.allow(role),
        }
    }

    /// What a route of plain HTTP needs, by its name: a method and a path. `None` for one that is not known here. A name of
    /// another kind stands for what is not served.
    pub fn of_route(route: &str) -> Option<Self> {
        // Whatever is not served: who asks is told so, as soon as it is known who that is.
        let Some((_, path)) = route.split_once(' ') else { return Some(Self::Credential) };
        if path.starts_with("/v1/") {
            return Some(Self::Role(Role::Inference));
        }
        (path == "/circuit-breakers").then_some(Self::Role(Role::Viewer))
    }

    /// What a gRPC path, `/package.Service/Method`, needs.
    ///
    /// * Health needs nothing: probes have no credentials, and it tells nothing but whether a process serves.
    /// * Reflection needs a credential of any role. What it tells is public, but a stream that everybody may hold open is
    ///   not something to give away; whoever may call a method may ask for its shape.
    /// * Methods of the control plane that only look need a viewer. Everything that is not named here needs an operator: a
    ///   new method or path is closed until somebody opens it.
    pub fn of_grpc(path: &str) -> Self {
        let path = path.trim_start_matches('/');
        let (service, method) = path.split_once('/').unwrap_or((path, ""));
        match service {
            "grpc.health.v1.Health" => Self::Nothing,
            "aiplatform.inference.v1.InferenceService" => Self::Role(Role::Inference),
            "aiplatform.resilience.v1.CircuitBreakerService"
            | "aiplatform.resilience.v1.FallbackChainService"
                if ["Get", "List", "Watch"].iter().any(|verb| method.starts_with(verb)) =>
            {
                Self::Role(Role::Viewer)
            }
            "grpc.reflection.v1.ServerReflection" | "grpc.reflection.v1alpha.ServerReflection" => {
                Self::Credential
            }
            _ => Self::Role(Role::Operator),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_of_http_have_the_roles_of_the_methods_behind_them() {
        for (route, role) in [
            ("POST /v1/chat/completions", Some(Role::Inference)),
            ("GET /v1/models/{model}", Some(Role::Inference)),
            ("GET /circuit-breakers", Some(Role::Viewer)),
            ("GET /v2/models", None),
        ] {
            assert_eq!(Need::of_route(route), role.map(Need::Role), "{route}");
        }
        assert_eq!(Need::of_route("_OTHER"), Some(Need::Credential));
    }

    #[test]
    fn every_method_has_the_role_that_its_effect_asks_for() {
        let cases = [
            ("/grpc.health.v1.Health/Check", Need::Nothing),
            ("/grpc.health.v1.Health/Watch", Need::Nothing),
            ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Need::Credential),
            ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Need::Credential),
            ("/grpc.health.v1.HealthX/Check", Need::Role(Role::Operator)),
            ("/nobody.Knows/Get", Need::Role(Role::Operator)),
            ("/v1/chat/completions", Need::Role(Role::Operator)),
            ("", Need::Role(Role::Operator)),
            ("/aiplatform.inference.v1.InferenceService/Chat", Need::Role(Role::Inference)),
            ("/aiplatform.inference.v1.InferenceService/ListModels", Need::Role(Role::Inference)),
            ("/aiplatform.resilience.v1.CircuitBreakerService/ListCircuitBreakers", Need::Role(Role::Viewer)),
            (
                "/aiplatform.resilience.v1.CircuitBreakerService/WatchCircuitBreakers",
                Need::Role(Role::Viewer),
            ),
            (
                "/aiplatform.resilience.v1.CircuitBreakerService/ResetCircuitBreaker",
                Need::Role(Role::Operator),
            ),
            (
                "/aiplatform.resilience.v1.CircuitBreakerService/SetCircuitBreakerMode",
                Need::Role(Role::Operator),
            ),
            (
                "/aiplatform.resilience.v1.FallbackChainService/GetFallbackChainStats",
                Need::Role(Role::Viewer),
            ),
            ("/aiplatform.resilience.v1.FallbackChainService/TestFallbackChain", Need::Role(Role::Operator)),
            ("/aiplatform.secrets.v1.NewService/GetEverything", Need::Role(Role::Operator)),
        ];
        for (path, need) in cases {
            assert_eq!(Need::of_grpc(path), need, "{path}");
        }
    }
}
