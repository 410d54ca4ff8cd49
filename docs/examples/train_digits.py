"""Trains a small convolutional network on scikit-learn's handwritten digits (1,797 images of 8 × 8 pixels, they come with the package).

    python train_digits.py --device cpu
    python train_digits.py --device cuda

Initial weights and the order of the data come from the CPU's random numbers, so that two devices start from the same place and see the same batches.
"""
import argparse
import time

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class DigitNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.conv2, self.norm2 = nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.hidden, self.out = nn.Linear(32 * 2 * 2, 64), nn.Linear(64, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.norm1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.norm2(self.conv2(x))), 2)
        return self.out(F.relu(self.hidden(x.flatten(1))))


def digits(generator):
    """Training and test images and labels: 1,500 and 297, mixed."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(data.target)
    order = torch.randperm(len(labels), generator=generator)
    train, test = order[:1500], order[1500:]
    return images[train], labels[train], images[test], labels[test]


def train_epoch(model, optimizer, images, labels, order, options):
    """One pass over the data. The losses stay on the device until the epoch is over, unless every step is to be looked at."""
    losses = []
    for batch in order.split(options.batch):
        x, y = (t[batch].to(options.device, non_blocking=True) for t in (images, labels))
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item() if options.item_every_step else loss.detach())
    return losses if options.item_every_step else torch.stack(losses).tolist()


def accuracy(model, images, labels, device):
    model.eval()
    with torch.no_grad():
        right = (model(images.to(device)).argmax(1) == labels.to(device)).sum().item()
    return right / len(labels)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--losses", metavar="FILE", help="write the loss of every step there, one per line")
    parser.add_argument("--item-every-step", action="store_true", help="read the loss after every step (one synchronisation each)")
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    train_images, train_labels, test_images, test_labels = digits(generator)
    model = DigitNet().to(options.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    name = torch.cuda.get_device_name() if torch.device(options.device).type == "cuda" else "CPU"
    print(f"{len(train_labels)} digits, {sum(p.numel() for p in model.parameters())} parameters, on {name}", flush=True)
    history, begin = [], time.perf_counter()
    for epoch in range(options.epochs):
        model.train()
        losses = train_epoch(model, optimizer, train_images, train_labels, torch.randperm(len(train_labels), generator=generator), options)
        history += losses
        print(f"epoch {epoch + 1:2}/{options.epochs}  loss {sum(losses) / len(losses):.4f}  {time.perf_counter() - begin:5.1f} s", flush=True)
    if options.losses:
        with open(options.losses, "w") as file:
            file.writelines(f"{loss!r}\n" for loss in history)
    print(f"test accuracy {accuracy(model, test_images, test_labels, options.device):.4f}")


if __name__ == "__main__":
    main()
