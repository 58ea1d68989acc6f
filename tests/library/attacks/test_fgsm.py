"""FGSM against a closed form; see `test_every_attack.py` for what all attacks share, `test_pgd.py` for peers."""

import torch

from vaecore import fgsm


def test_fgsm_of_a_linear_classifier_is_one_signed_and_clipped_step(two_classes):
    images = torch.tensor([0.5, 0.05, 0.95, 0.5]).view(1, 1, 2, 2)
    weight = torch.tensor([2.0, -3.0, 1.0, 0.0]).view(1, 1, 2, 2)
    attack = fgsm(two_classes(weight, 0.1, at=images), images, torch.tensor([0]), epsilon=0.25)
    # Towards class 1 along the weight's sign; the second and third pixel stop at the bounds after 0.05.
    torch.testing.assert_close(attack.images.flatten(), torch.tensor([0.75, 0.0, 1.0, 0.5]))
    torch.testing.assert_close(attack.l2, torch.tensor([(0.25**2 + 2 * 0.05**2) ** 0.5]))
    torch.testing.assert_close(attack.linf, torch.tensor([0.25]))
    assert attack.success.tolist() == [True]
    assert attack.evaluations.tolist() == [1]
    assert attack.constant is None


def test_fgsm_towards_a_target_goes_where_the_other_class_goes_untargeted(two_classes):
    images = torch.full((3, 1, 2, 2), 0.5)
    classifier = two_classes(torch.tensor([[1.0, -1.0], [2.0, 3.0]]), 0.1, at=images[:1])
    zeros, ones = torch.zeros(3, dtype=torch.int64), torch.ones(3, dtype=torch.int64)
    away = fgsm(classifier, images, zeros, epsilon=0.2)
    towards = fgsm(classifier, images, zeros, epsilon=0.2, targets=ones)
    torch.testing.assert_close(towards.images, away.images)
    assert towards.success.all()


def test_fgsm_fools_some_images_of_a_convolutional_classifier(digits):
    model, images, labels, _ = digits
    attack = fgsm(model, images, labels, epsilon=0.1, keep_failed=True)
    assert torch.equal(attack.success, model(attack.images).argmax(1) != labels)
    assert 0 < attack.success.sum() < len(labels)
    assert bool((attack.linf > 0.09).all())


def test_results_of_a_call_in_inference_mode_are_ordinary_tensors(digits):
    model, images, labels, _ = digits
    with torch.inference_mode():
        attack = fgsm(model, images[:2], labels[:2], epsilon=0.1)
    assert not any(value.is_inference() for value in (attack.images, attack.success, attack.l2, attack.flags))
