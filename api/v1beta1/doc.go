// Package v1beta1 holds the custom resources of Berth, group berth.dev: what a
// cluster administrator writes (pools and advertisements), what Berth reports
// back in their status, and the names Berth uses on Services (annotations,
// conditions, reasons). Kinds and fields carry MetalLB's names where MetalLB
// has them. All kinds are cluster-scoped.
//
// Everything that can be judged from one object alone is validated by its
// schema (CEL, KEP-2876), so that the API server refuses it with the name of
// the field. What needs several objects is judged by the controller and
// reported in status.conditions.
//
// +kubebuilder:object:generate=true
// +groupName=berth.dev
package v1beta1
