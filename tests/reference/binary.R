# References for logit, clustered errors, Firth, margins, GEE, conditional and random-intercept
# logits. Run as `Rscript tests/reference/binary.R OUT.json`; reads data/*.csv beside itself.
suppressMessages({
  library(sandwich); library(lme4); library(geepack); library(survival); library(brglm2)
  library(numDeriv); library(jsonlite)
})
here <- dirname(sub("^--file=", "", grep("^--file=", commandArgs(FALSE), value = TRUE)))
out <- commandArgs(TRUE)[1]

# Columns: intercept, levels, train, train x levels. Levels in the order original, rest by name.
design <- function(data, arm = data$arm) {
  factors <- setdiff(names(data), c("query", "wording", "arm", "y"))
  L <- matrix(1, nrow(data), 1)
  for (f in factors) for (l in setdiff(sort(unique(data[[f]])), "original"))
    L <- cbind(L, as.numeric(data[[f]] == l))
  unname(cbind(L, L * (arm == "train")))
}
read <- function(name) {
  d <- read.csv(file.path(here, "data", paste0(name, ".csv")), colClasses = "character")
  d <- d[d$y != "", ]
  d$y <- as.numeric(d$y)
  d
}

# Firth by hand: the penalised likelihood of the definition, and optim.
penalised <- function(b, X, k, n) {
  eta <- as.vector(X %*% b); p <- plogis(eta)
  I <- crossprod(X, X * (n * p * (1 - p)))
  ld <- determinant(I)$modulus
  if (!is.finite(ld)) return(-1e10)
  as.numeric(sum(k * eta) - sum(n * (pmax(eta, 0) + log1p(exp(-abs(eta))))) + ld / 2)
}
slope <- function(b, X, k, n) {
  p <- plogis(as.vector(X %*% b)); w <- n * p * (1 - p)
  h <- w * rowSums((X %*% solve(crossprod(X, X * w))) * X)
  as.vector(crossprod(X, k - n * p + h * (0.5 - p)))
}
firth <- function(X, k, n, columns) {
  control <- list(fnscale = -1, reltol = 1e-15, maxit = 2000)
  top <- optim(rep(0, ncol(X)), penalised, slope, X = X, k = k, n = n, method = "BFGS",
               control = control)
  for (i in 1:3) top <- optim(top$par, penalised, slope, X = X, k = k, n = n, method = "BFGS",
                              control = control)
  held <- function(j, v, start) {
    put <- function(f) { b <- numeric(ncol(X)); b[-j] <- f; b[j] <- v; b }
    o <- list(par = start[-j])
    for (i in 1:3) o <- optim(o$par, function(f) penalised(put(f), X, k, n),
               function(f) slope(put(f), X, k, n)[-j], method = "BFGS", control = control)
    list(value = o$value, b = put(o$par))
  }
  errors <- sqrt(diag(solve(crossprod(X, X * as.vector(n * plogis(X %*% top$par) *
                                                         (1 - plogis(X %*% top$par)))))))
  rows <- lapply(columns, function(j) {
    at0 <- held(j, 0, top$par)
    chi <- 2 * (top$value - at0$value)
    bound <- function(side) {
      start <- top$par
      g <- function(v) 2 * (top$value - held(j, v, start)$value) - qchisq(.95, 1)
      far <- top$par[j] + side * errors[j]
      while (g(far) < 0) far <- far + side * errors[j]
      uniroot(g, sort(c(far, far - side * errors[j])), tol = 1e-7)$root
    }
    list(column = j - 1, low = bound(-1), high = bound(1), chi2 = chi,
         p = pchisq(chi, 1, lower.tail = FALSE))
  })
  list(estimates = top$par, profiles = rows)
}

# Gap effect of the first level, averaged over trials, with the gradient by differentiation.
margin <- function(d, b, V) {
  factors <- setdiff(names(d), c("query", "wording", "arm", "y"))
  f <- factors[1]
  value <- function(b) {
    rate <- function(arm, level) {
      e <- d; e[[f]] <- level
      X <- rbind(design(rbind(e, d), rep(arm, 2 * nrow(d))))[seq_len(nrow(d)), ]
      mean(plogis(as.vector(X %*% b)))
    }
    tr <- rate("train", "removed") - rate("train", "original")
    de <- rate("deploy", "removed") - rate("deploy", "original")
    gap <- rate("train", "original") - rate("deploy", "original")
    c(effect = tr - de, train = tr, deploy = de, gap = gap)
  }
  J <- jacobian(value, b)
  list(estimate = unname(value(b)), std_error = sqrt(diag(J %*% V %*% t(J))))
}

names <- c("balanced", "one_at_a_time", "separated", "heterogeneous", "crossed", "unbalanced",
           "six_clusters", "fraction")
results <- list()
for (name in names) {
  d <- read(name)
  X <- design(d); y <- d$y; p <- ncol(X); g <- as.integer(factor(d$query))
  key <- apply(X, 1, paste, collapse = ""); first <- !duplicated(key)
  k <- as.vector(tapply(y, factor(key, unique(key)), sum))
  n <- as.vector(table(factor(key, unique(key))))
  C <- X[first, , drop = FALSE]
  r <- list(firth = firth(C, k, n, if (p <= 8) seq_len(p) else c(1, 2, p / 2 + 1, p / 2 + 2)))
  reduced <- glm(cbind(k, n - k) ~ C - 1, family = binomial(), method = "brglmFit",
                 type = "AS_mean", epsilon = 1e-12, maxit = 5000)
  r$brglm2 <- unname(coef(reduced))
  if (name != "separated") {
    frame <- data.frame(y = y, g = g); frame$X <- X
    plain <- glm(y ~ X - 1, family = binomial(), data = frame,
                 control = glm.control(epsilon = 1e-14, maxit = 100))
    V <- vcovCL(plain, cluster = g, type = "HC0", cadjust = TRUE)
    r$logit <- list(estimates = unname(coef(plain)), covariance = unname(vcov(plain)),
                    clustered = unname(V), log_likelihood = as.numeric(logLik(plain)))
    r$margins <- margin(d, coef(plain), V)
    o <- order(g); sorted <- frame[o, ]
    alike <- geeglm(y ~ X - 1, id = g, data = sorted, family = binomial(), corstr = "exchangeable",
                    control = geese.control(epsilon = 1e-12, maxit = 200))
    r$gee <- list(estimates = unname(coef(alike)), robust = unname(alike$geese$vbeta),
                  correlation = unname(alike$geese$alpha), scale = unname(alike$geese$gamma))
    # Mancl and DeRouen (2001) from the matrices of their definition, at geepack's estimates.
    pr <- as.vector(plogis(X %*% coef(alike))); a <- r$gee$correlation
    B <- matrix(0, p, p); parts <- list()
    for (q in unique(g)) {
      i <- which(g == q); v <- pr[i] * (1 - pr[i])
      R <- matrix(a, length(i), length(i)); diag(R) <- 1
      W <- solve(diag(sqrt(v)) %*% R %*% diag(sqrt(v))); D <- X[i, ] * v
      B <- B + t(D) %*% W %*% D
      parts[[length(parts) + 1]] <- list(D = D, W = W, e = y[i] - pr[i])
    }
    M <- matrix(0, p, p)
    for (s in parts) {
      H <- s$D %*% solve(B) %*% t(s$D) %*% s$W
      u <- t(s$D) %*% s$W %*% solve(diag(length(s$e)) - H) %*% s$e
      M <- M + u %*% t(u)
    }
    r$gee$bias_reduced <- unname(solve(B) %*% M %*% solve(B))
    cases <- data.frame(y = y, g = g); cases$X <- X[, -1]
    within <- clogit(y ~ X + strata(g), data = cases, method = "exact",
                     control = coxph.control(eps = 1e-12, iter.max = 50))
    r$conditional <- list(estimates = unname(coef(within)), covariance = unname(vcov(within)),
                          log_likelihood = within$loglik[2],
                          dropped = sum(tapply(y, g, function(v) min(v) == max(v))))
    mixed <- glmer(y ~ X - 1 + (1 | g), data = frame, family = binomial(), nAGQ = 15,
                   control = glmerControl(optimizer = "bobyqa", tolPwrss = 1e-10,
                                          optCtrl = list(rhobeg = .2, rhoend = 1e-9, maxfun = 1e5)))
    r$mixed <- list(estimates = unname(fixef(mixed)), sd = unname(getME(mixed, "theta")),
                    errors = unname(sqrt(diag(as.matrix(vcov(mixed))))),
                    covariance = unname(as.matrix(vcov(mixed))))
  }
  results[[name]] <- r
}
# Heinze and Schemper (2002): endometrial cancer; the data come with brglm2.
data("endometrial", package = "brglm2")
copy <- file.path(here, "data", "endometrial.csv")
if (!file.exists(copy)) write.csv(endometrial, copy, row.names = FALSE)
X <- cbind(1, as.matrix(endometrial[, c("NV", "PI", "EH")]))
results$endometrial <- list(firth = firth(X, endometrial$HG, rep(1, nrow(X)), 1:4))
used <- c("sandwich", "lme4", "geepack", "survival", "brglm2", "numDeriv")
results$versions <- c(list(R = as.character(getRversion())),
                      lapply(setNames(used, used), function(x) as.character(packageVersion(x))))
write_json(results, out, digits = NA, auto_unbox = TRUE, pretty = FALSE)
