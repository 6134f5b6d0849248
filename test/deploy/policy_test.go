package deploy

import (
	"slices"
	"strings"
	"testing"

	celtypes "github.com/google/cel-go/common/types"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/cel/environment"
)

// oldest is the first Kubernetes that serves these policies without a feature gate.
var oldest = version.MajorMinor(1, 30)

// A policy is a ValidatingAdmissionPolicy as the API server runs it: compiled and evaluated by its own packages, with its
// limits of what an evaluation may cost. Which requests it is asked about, its matchConstraints, only a real API server
// shows: test/e2e does.
type policy struct {
	conditions, rules, texts cel.ConditionEvaluator
	messages                 []string
}

// An expression is one to be compiled, of a name if it is a variable.
type expression struct {
	name, text string
	result     []*celtypes.Type
}

func (e expression) GetName() string { return e.name }

func (e expression) GetExpression() string { return e.text }

func (e expression) ReturnTypes() []*celtypes.Type { return e.result }

// compile compiles a policy in the environment of the oldest Kubernetes. All of its rules fail closed.
func compile(t *testing.T, p admissionv1.ValidatingAdmissionPolicy) policy {
	t.Helper()
	if p.Spec.FailurePolicy == nil || *p.Spec.FailurePolicy != admissionv1.Fail {
		t.Error("a policy that cannot be evaluated lets requests through")
	}
	compiler, err := cel.NewCompositedCompiler(environment.MustBaseEnvSet(oldest))
	if err != nil {
		t.Fatal(err)
	}
	with := cel.OptionalVariableDeclarations{HasAuthorizer: true}
	for _, v := range p.Spec.Variables {
		variable := expression{v.Name, v.Expression, []*celtypes.Type{celtypes.AnyType, celtypes.DynType}}
		if err := compiler.CompileAndStoreVariable(variable, with, environment.NewExpressions).Error; err != nil {
			t.Fatalf("variable %s: %v", v.Name, err)
		}
	}
	filter := func(texts []string, result *celtypes.Type) cel.ConditionEvaluator {
		var expressions []cel.ExpressionAccessor
		for _, text := range texts {
			expressions = append(expressions, expression{text: text, result: []*celtypes.Type{result}})
		}
		f := compiler.CompileCondition(expressions, with, environment.NewExpressions)
		for _, err := range f.CompilationErrors() {
			t.Fatal(err)
		}
		return f
	}
	var conditions, rules, texts, messages []string
	for _, c := range p.Spec.MatchConditions {
		conditions = append(conditions, c.Expression)
	}
	for _, v := range p.Spec.Validations {
		rules, messages = append(rules, v.Expression), append(messages, v.Message)
		text := v.MessageExpression
		if text == "" {
			text = "''"
		}
		texts = append(texts, text)
		if v.Message == "" && v.MessageExpression == "" {
			t.Errorf("a rule does not say what is wrong: %s", v.Expression)
		}
	}
	return policy{
		filter(conditions, celtypes.BoolType), filter(rules, celtypes.BoolType), filter(texts, celtypes.StringType), messages,
	}
}

// A request is one to the API server.
type request struct {
	old, object runtime.Object // old is nil when it is made
	resource    schema.GroupVersionResource
	kind        schema.GroupVersionKind
	subresource string
	by          user.Info
	namespace   *corev1.Namespace
}

// refuses returns why the policy refuses the request; empty if it does not.
func (p policy) refuses(t *testing.T, r request) string {
	t.Helper()
	operation := admission.Create
	if r.old != nil {
		operation = admission.Update
	}
	attributes := admission.NewAttributesRecord(r.object, r.old, r.kind, r.namespace.Name, "any", r.resource, r.subresource, operation, nil, false, r.by)
	versioned := &admission.VersionedAttributes{Attributes: attributes, VersionedKind: r.kind, VersionedObject: admission.NewLazyObject(r.object), VersionedOldObject: admission.NewLazyObject(r.old)}
	asked := cel.CreateAdmissionRequest(attributes, metav1.GroupVersionResource(r.resource), metav1.GroupVersionKind(r.kind))
	evaluate := func(f cel.ConditionEvaluator) []cel.EvaluationResult {
		results, _, err := f.ForInput(t.Context(), versioned, asked, cel.OptionalVariableBindings{}, cel.CreateNamespaceObject(r.namespace), celconfig.RuntimeCELCostBudget)
		if err != nil {
			t.Fatal(err)
		}
		return results
	}
	if slices.ContainsFunc(evaluate(p.conditions), func(c cel.EvaluationResult) bool { return c.EvalResult != celtypes.True }) {
		return ""
	}
	texts := evaluate(p.texts)
	var why []string
	for i, rule := range evaluate(p.rules) {
		switch {
		case rule.Error != nil:
			why = append(why, "error: "+rule.Error.Error())
		case rule.EvalResult != celtypes.True:
			text, _ := texts[i].EvalResult.Value().(string)
			why = append(why, p.messages[i]+text)
		}
	}
	return strings.Join(why, "; ")
}
