// Command manifests says what is wrong with compose files and Kubernetes manifests, by the code that decides
// about them elsewhere: the loader of docker compose, the API's types read strictly (an unknown or doubled field
// is an error), and the admission plugin's checks of the restricted pod security standard.
//
//	manifests -compose FILE -kubernetes FILE
//
// Nothing is downloaded and no cluster asked. Exit code 0, or 1 and one line for each problem.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

func main() {
	compose := flag.String("compose", "", "a compose file")
	kubernetes := flag.String("kubernetes", "", "a file of Kubernetes objects")
	flag.Parse()
	var problems []error
	if *compose != "" {
		problems = append(problems, composeProblems(*compose)...)
	}
	if *kubernetes != "" {
		problems = append(problems, kubernetesProblems(*kubernetes)...)
	}
	for _, problem := range problems {
		fmt.Fprintln(os.Stderr, problem)
	}
	if len(problems) > 0 || flag.NArg() > 0 || flag.NFlag() == 0 {
		os.Exit(1)
	}
}

// composeProblems loads the file as docker compose does: schema, interpolation, references between its parts.
// Whatever is mounted from the file's own surroundings must be there: Docker would make a folder in its place.
func composeProblems(file string) []error {
	options, err := cli.NewProjectOptions([]string{file}, cli.WithProfiles([]string{"*"}))
	if err != nil {
		return []error{fmt.Errorf("%s: %w", file, err)}
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return []error{fmt.Errorf("%s: %w", file, err)}
	}
	var problems []error
	for name, service := range project.Services {
		for _, volume := range service.Volumes {
			if volume.Type != types.VolumeTypeBind {
				continue
			}
			if _, err := os.Stat(volume.Source); err != nil {
				problems = append(problems, fmt.Errorf("%s: %s mounts what is not there: %w", file, name, err))
			}
		}
	}
	return problems
}

// kubernetesProblems reads each object strictly, and holds its pods to the restricted standard.
func kubernetesProblems(file string) []error {
	content, err := os.Open(file)
	if err != nil {
		return []error{err}
	}
	defer content.Close()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, appsv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return []error{err}
		}
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	standard, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return []error{err}
	}
	var problems []error
	for documents := yaml.NewYAMLReader(bufio.NewReader(content)); ; {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return problems
		}
		if err != nil {
			return append(problems, fmt.Errorf("%s: %w", file, err))
		}
		object, kind, err := decoder.Decode(document, nil, nil)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", file, err))
			continue
		}
		pod, err := podOf(object)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %s: %w", file, kind.Kind, err))
			continue
		}
		if pod == nil {
			continue
		}
		for _, result := range standard.EvaluatePod(restricted, &pod.ObjectMeta, &pod.Spec) {
			if !result.Allowed {
				problems = append(problems, fmt.Errorf("%s: %s: not restricted: %s (%s)",
					file, kind.Kind, result.ForbiddenReason, result.ForbiddenDetail))
			}
		}
	}
}

var restricted = api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}

// podOf gives the pods that an object makes; nil where it makes none. A kind that is not known here is an error:
// its pods would go unchecked.
func podOf(object runtime.Object) (*corev1.PodTemplateSpec, error) {
	switch object := object.(type) {
	case *appsv1.StatefulSet:
		return &object.Spec.Template, nil
	case *appsv1.Deployment:
		return &object.Spec.Template, nil
	case *corev1.Pod:
		return &corev1.PodTemplateSpec{ObjectMeta: object.ObjectMeta, Spec: object.Spec}, nil
	case *corev1.ConfigMap, *corev1.Namespace, *corev1.PersistentVolumeClaim, *corev1.Secret,
		*corev1.Service, *corev1.ServiceAccount:
		return nil, nil
	default:
		return nil, errors.New("say in podOf whether it makes pods")
	}
}
